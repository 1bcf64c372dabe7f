package handler

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"runner-token-broker/internal/runner"
)

type entry string

const (
	httpEntry   entry = "http"
	directEntry entry = "direct"
)

// call is an event, decoded.
type call struct {
	entry    entry
	caller   string // ARN; for the log alone, since a direct invoker can forge an HTTP event
	sourceIP string
	plain    bool // the bare token is wanted
	request  runner.Request
	refused  *runner.Error // why there is no request
}

func (h *Handler) decode(event []byte) call {
	var fields map[string]json.RawMessage
	err := json.Unmarshal(event, &fields)
	if _, ok := fields["requestContext"]; ok {
		return h.decodeHTTP(event)
	}
	c := call{entry: directEntry}
	if err != nil {
		c.refuse("the event is not a JSON object")
		return c
	}
	if c.request, err = decodeDirect(fields); err != nil {
		c.refuse(err.Error())
	}
	return c
}

var errNoIdentity = errors.New("the route has lost its AWS_IAM authorizer, or the event is hand-made: redeploy the template")

func (c *call) refuse(message string) {
	c.refused = &runner.Error{Code: runner.InvalidRequest, Message: message}
}

// decodeDirect refuses fields that it does not know, and case counts (a struct would ignore it): a typing error must not
// become a default.
func decodeDirect(fields map[string]json.RawMessage) (runner.Request, error) {
	target, kind, fresh := "", string(runner.RegistrationToken), false
	known := map[string]any{"target": &target, "kind": &kind, "fresh": &fresh}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		value, ok := known[name]
		if !ok {
			return runner.Request{}, fmt.Errorf("unknown field %.200q: there are target, kind and fresh", name)
		}
		if json.Unmarshal(fields[name], value) != nil { // null leaves the default
			return runner.Request{}, fmt.Errorf("field %s has the wrong type", name)
		}
	}
	return newRequest(target, kind, fresh)
}

func newRequest(target, kind string, fresh bool) (runner.Request, error) {
	t, err := runner.ParseTarget(target)
	if err != nil {
		return runner.Request{}, err
	}
	k, err := runner.ParseKind(kind)
	if err != nil {
		return runner.Request{}, err
	}
	return runner.Request{Target: t, Kind: k, Fresh: fresh}, nil
}

// httpEvent is what counts of an event of payload format 2.0 (HTTP API, function URL) or 1.0 (REST API, which gives no
// version): https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-develop-integrations-lambda.html.
type httpEvent struct {
	Version           string              `json:"version"`
	RawPath           string              `json:"rawPath"`    // 2.0
	Path              string              `json:"path"`       // 1.0
	HTTPMethod        string              `json:"httpMethod"` // 1.0
	Headers           map[string]string   `json:"headers"`
	MultiValueHeaders map[string][]string `json:"multiValueHeaders"` // 1.0; of what is here, headers has the last
	RequestContext    struct {
		Stage string `json:"stage"`
		HTTP  struct {
			Method   string `json:"method"`
			SourceIP string `json:"sourceIp"`
		} `json:"http"` // 2.0
		Authorizer struct {
			IAM struct {
				UserARN string `json:"userArn"`
			} `json:"iam"`
		} `json:"authorizer"` // 2.0
		Identity struct {
			UserARN  string `json:"userArn"`
			SourceIP string `json:"sourceIp"`
		} `json:"identity"` // 1.0
	} `json:"requestContext"`
}

func (h *Handler) decodeHTTP(event []byte) call {
	var e httpEvent
	err := json.Unmarshal(event, &e) // a field of the wrong type does not keep the others from being read
	rc := e.RequestContext
	c := call{entry: httpEntry}
	method, path := e.HTTPMethod, e.Path
	c.caller, c.sourceIP = rc.Identity.UserARN, rc.Identity.SourceIP
	if e.Version == "2.0" {
		method, path = rc.HTTP.Method, e.RawPath
		c.caller, c.sourceIP = rc.Authorizer.IAM.UserARN, rc.HTTP.SourceIP
	}
	switch {
	case c.caller == "" && !h.SAMLocal:
		c.refused = runner.Refuse(runner.CallerNotAuthenticated, errNoIdentity)
		return c
	case err != nil:
		c.refuse("the event is not one of API Gateway's")
		return c
	case method != http.MethodPost:
		c.refuse(fmt.Sprintf("method %.20q is not POST", method))
		return c
	}
	if c.request, err = parsePath(path, rc.Stage); err != nil {
		c.refuse(err.Error())
		return c
	}
	header := e.header()
	c.plain = prefersPlainText(header.Get("Accept"))
	c.request.Fresh = hasNoCache(header.Values("Cache-Control"))
	return c
}

// parsePath parses GitHub's own path. It decodes and cleans nothing, so what it takes is rebuilt from its result byte
// for byte: IAM authorized just this path.
func parsePath(path, stage string) (runner.Request, error) {
	malformed := func() (runner.Request, error) {
		return runner.Request{}, fmt.Errorf("path %.200q is not GitHub's: /orgs/ORG/actions/runners/registration-token and the like", path)
	}
	switch stage {
	case "orgs", "repos", "enterprises":
		// /repos/orgs/acme/... would be a repository, or an organization behind the stage.
		return runner.Request{}, fmt.Errorf("a stage named %s makes paths ambiguous", stage)
	}
	rest, ok := strings.CutPrefix(path, "/")
	if stage != "" && stage != "$default" { // which is in no path
		rest = strings.TrimPrefix(rest, stage+"/")
	}
	const separator = "/actions/runners/"
	i := strings.LastIndex(rest, separator) // the last: a repository may be actions/runners
	if !ok || i < 0 {
		return malformed()
	}
	return newRequest(rest[:i], rest[i+len(separator):], false)
}

// header returns the headers by their canonical names: API Gateway lower-cases them, SAM local and REST APIs do not.
func (e httpEvent) header() http.Header {
	h := http.Header{}
	if len(e.MultiValueHeaders) == 0 {
		for _, name := range slices.Sorted(maps.Keys(e.Headers)) {
			h.Add(name, e.Headers[name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(e.MultiValueHeaders)) {
		for _, value := range e.MultiValueHeaders[name] {
			h.Add(name, value)
		}
	}
	return h
}

// prefersPlainText reports whether the first media range is text/plain.
func prefersPlainText(accept string) bool {
	first, _, _ := strings.Cut(accept, ",")
	mediaType, _, _ := strings.Cut(first, ";")
	return strings.EqualFold(strings.TrimSpace(mediaType), "text/plain")
}

func hasNoCache(values []string) bool {
	for directive := range strings.SplitSeq(strings.Join(values, ","), ",") {
		if strings.EqualFold(strings.TrimSpace(directive), "no-cache") {
			return true
		}
	}
	return false
}
