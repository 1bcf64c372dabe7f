package handler

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"runner-token-broker/internal/runner"
)

// command is what an event asks for: issue, check or refresh.
type command interface{ command() }

// issue asks for a token.
type issue struct {
	runner.Request
	plain bool // the answer is to be the bare token
}

// check asks for a self-check of the targets; none means all that the policy names.
type check struct{ targets []runner.Target }

// refresh asks for the shared tokens to be made anew.
type refresh struct{}

func (issue) command()   {}
func (check) command()   {}
func (refresh) command() {}

var (
	malformed  = runner.Cause{Name: "malformed-request", Code: runner.InvalidRequest}
	noIdentity = runner.Cause{
		Name: "no-identity", Code: runner.CallerNotAuthenticated,
		Remedy: "set the route's authorization back to AWS_IAM, unless the event was made by hand",
	}
)

// refuse returns the refusal of a request's form. The message is the caller's and the operator's.
func refuse(format string, args ...any) *runner.Error {
	e := malformed.Refuse(format, args...)
	e.Message = e.Err.Error()
	return e
}

// command reads the event as a command. Its errors are *runner.Error.
func (h *Handler) command(e event) (command, error) {
	switch {
	case e.gateway != nil:
		return h.httpCommand(e)
	case e.fields == nil:
		return nil, refuse("the event is not a JSON object")
	case e.fields["check"] != nil:
		return checkCommand(e.fields)
	case e.fields["refresh"] != nil:
		return h.refreshCommand(e.fields)
	}
	return directCommand(e.fields)
}

// checkCommand takes {"check":true}, alone or with "targets".
func checkCommand(fields map[string]json.RawMessage) (command, error) {
	var names []string
	if err := decodeFields(fields, map[string]any{"check": new(json.RawMessage), "targets": &names}); err != nil {
		return nil, err
	}
	if string(fields["check"]) != "true" {
		return nil, refuse("field check takes nothing but true")
	}
	var targets []runner.Target
	for _, name := range names {
		target, err := runner.ParseTarget(name)
		if err != nil {
			return nil, refuse("%w", err)
		}
		targets = append(targets, target)
	}
	return check{targets}, nil
}

// refreshCommand takes {"refresh":true} alone, where tokens are shared.
func (h *Handler) refreshCommand(fields map[string]json.RawMessage) (command, error) {
	if err := decodeFields(fields, map[string]any{"refresh": new(json.RawMessage)}); err != nil {
		return nil, err
	}
	switch {
	case string(fields["refresh"]) != "true":
		return nil, refuse("field refresh takes nothing but true")
	case h.Refresher == nil:
		return nil, refuse("tokens are not shared: SHARED_TOKENS_SECRET_ID is not set")
	}
	return refresh{}, nil
}

// decodeFields reads the fields into what is known of them. An unknown field is an error: a typing error must not
// become a default. null leaves the default.
func decodeFields(fields map[string]json.RawMessage, known map[string]any) error {
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		value, ok := known[name]
		if !ok {
			return refuse("unknown field %.200q: there are %s", name, strings.Join(slices.Sorted(maps.Keys(known)), ", "))
		}
		if json.Unmarshal(fields[name], value) != nil {
			return refuse("field %s has the wrong type", name)
		}
	}
	return nil
}

func directCommand(fields map[string]json.RawMessage) (command, error) {
	target, kind, fresh := "", string(runner.RegistrationToken), false
	if err := decodeFields(fields, map[string]any{"target": &target, "kind": &kind, "fresh": &fresh}); err != nil {
		return nil, err
	}
	t, err := runner.ParseTarget(target)
	if err != nil {
		return nil, refuse("%w", err)
	}
	k, err := runner.ParseKind(kind)
	if err != nil {
		return nil, refuse("%w", err)
	}
	return issue{Request: runner.Request{Target: t, Kind: k, Fresh: fresh}}, nil
}

// httpCommand refuses in the order of the contract: the caller's identity, then the request's form.
func (h *Handler) httpCommand(e event) (command, error) {
	g := e.gateway
	switch method := g.method(); {
	case g.caller() == "" && !h.SAMLocal:
		return nil, noIdentity.Refuse("the event has no IAM identity")
	case e.invalid:
		return nil, refuse("the event is not one of API Gateway's")
	case method != http.MethodPost:
		return nil, refuse("method %.20q is not POST", method)
	}
	request, err := parsePath(g.path(), g.RequestContext.Stage)
	if err != nil {
		return nil, refuse("%w", err)
	}
	if err := checkRoute(g.route(), request); err != nil {
		return nil, refuse("%w", err)
	}
	request.Fresh = hasNoCache(g.header("Cache-Control"))
	return issue{Request: request, plain: prefersPlainText(g.header("Accept"))}, nil
}

const longestPath = 200 // bytes; of GitHub's, no path has more

// parsePath parses GitHub's own path, behind the stage's name where the stage has one.
func parsePath(path, stage string) (runner.Request, error) {
	switch stage {
	case "orgs", "repos", "enterprises":
		// /repos/orgs/acme/... would be a repository, or an organization behind the stage.
		return runner.Request{}, fmt.Errorf("a stage named %s makes paths ambiguous", stage)
	}
	rest, ok := strings.CutPrefix(path, "/")
	if !ok {
		return runner.Request{}, fmt.Errorf("path %.200q does not begin with a slash", path)
	}
	if stage != "" && stage != "$default" { // $default is in no path
		rest = strings.TrimPrefix(rest, stage+"/")
	}
	request, err := runner.ParsePath(rest)
	if err == nil {
		return request, nil
	}
	for i := max(1, len(rest)-longestPath); i < len(rest); i++ {
		if rest[i] != '/' {
			continue
		}
		if r, inner := runner.ParsePath(rest[i+1:]); inner == nil {
			return runner.Request{}, fmt.Errorf("path %.200q has %.200q before /%s: "+
				"map the custom domain at its root, not below it", path, strings.TrimSuffix(path, "/"+r.Path()), r.Path())
		}
	}
	return runner.Request{}, err
}

// checkRoute refuses a path that is not of the route that API Gateway matched: it authorizes the route, and may decode
// the path. Of routes that are not GitHub's ($default, ANY) nothing can be said.
func checkRoute(route string, r runner.Request) error {
	_, path, _ := strings.Cut(route, "/")
	matched, err := runner.ParsePath(strings.NewReplacer("{", "", "}", "").Replace(path))
	if err == nil && (matched.Target.Scope() != r.Target.Scope() || matched.Kind != r.Kind) {
		return fmt.Errorf("path /%s is not of the route %.200q", r.Path(), route)
	}
	return nil
}

// prefersPlainText reports whether the first media range is text/plain.
func prefersPlainText(accept []string) bool {
	first, _, _ := strings.Cut(strings.Join(accept, ","), ",")
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

// Causes are what can be wrong with an event.
func Causes() []runner.Cause { return []runner.Cause{malformed, noIdentity} }
