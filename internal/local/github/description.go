package github

import (
	"bytes"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"

	"runner-token-broker/internal/runner"
)

//go:embed testdata/*.json
var testdata embed.FS

// document is a description of GitHub's API. It is parsed when it is first needed: a laptop that asks for one version
// does not wait for three.
type document func() (routers.Router, error)

func load(name string) document {
	return sync.OnceValues(func() (routers.Router, error) {
		data, err := testdata.ReadFile("testdata/github-runners-" + name + ".json")
		if err != nil {
			return nil, err
		}
		doc, err := openapi3.NewLoader().LoadFromData(data)
		if err != nil {
			return nil, err
		}
		doc.Servers = nil // match the path alone
		return gorillamux.NewRouter(doc)
	})
}

const (
	versionHeader = "X-Github-Api-Version"
	oldest        = "2022-11-28" // which every GitHub knows
	enterprise    = "/api/v3"    // where GitHub Enterprise Server has its API
)

var (
	dotcom = map[string]document{oldest: load("2022-11-28"), "2026-03-10": load("2026-03-10")}
	server = map[string]document{oldest: load("ghes-3.19")}
)

// scopes are those that a classic PAT needs, by the scope of the target, and permissions are those that an App needs.
var (
	scopes      = map[string]string{"orgs": "admin:org", "repos": "repo", "enterprises": "manage_runners:enterprise"}
	permissions = map[string]string{"orgs": "organization_self_hosted_runners", "repos": "administration"}
)

// operation is what a request asks for.
type operation struct {
	document document // nil if this GitHub does not have the version
	version  string
	kind     kind
	target   runner.Target // zero for an installation token
	input    *openapi3filter.RequestValidationInput

	installation int64 // whose token is asked for
	asked        asked
}

type kind int

const (
	runnerToken kind = iota
	findInstallation
	installationToken
)

// describe finds the operation that r asks for and says what is wrong with r.
func describe(r *http.Request) (operation, string) {
	if problem := check(r); problem != "" {
		return operation{}, problem
	}
	documents, url := dotcom, r.URL.Path
	if rest, ok := strings.CutPrefix(url, enterprise); ok {
		documents, url = server, rest
	}
	op := operation{version: r.Header.Get(versionHeader)}
	op.document = documents[op.version]
	document := op.document
	if document == nil {
		document = documents[oldest] // whatever the version, the path must be one of GitHub's
	}
	router, err := document()
	if err != nil {
		return op, err.Error()
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
	if err != nil {
		return op, "body: " + err.Error()
	}
	r.Body = io.NopCloser(bytes.NewReader(body)) // for the hook
	described := r.Clone(r.Context())
	described.URL.Path, described.URL.RawPath = url, ""
	described.Body = io.NopCloser(bytes.NewReader(body))
	route, params, err := router.FindRoute(described)
	if err != nil {
		return op, err.Error()
	}
	op.input = &openapi3filter.RequestValidationInput{Request: described, PathParams: params, Route: route}
	if err := openapi3filter.ValidateRequest(r.Context(), op.input); err != nil {
		return op, err.Error()
	}
	if err := op.parse(r, strings.TrimPrefix(url, "/"), body); err != nil {
		return op, err.Error()
	}
	return op, ""
}

const maxBody = 4 << 10

// parse says where r is not what the service promises to send for this operation.
func (op *operation) parse(r *http.Request, path string, body []byte) (err error) {
	if id, ok := op.input.PathParams["installation_id"]; ok {
		op.kind = installationToken
		if op.installation, err = strconv.ParseInt(id, 10, 64); err != nil {
			return err
		}
		if op.asked, err = parseAsked(body); err != nil {
			return err
		}
		return checkJWT(r)
	}
	if len(body) > 0 || r.Header["Content-Type"] != nil {
		return errors.New("there is a body, or its type")
	}
	if target, ok := strings.CutSuffix(path, "/installation"); ok {
		op.kind = findInstallation
		if op.target, err = runner.ParseTarget(target); err != nil {
			return err
		}
		return checkJWT(r)
	}
	request, err := runner.ParsePath(path)
	if err != nil {
		return fmt.Errorf("GitHub has it, and this stand-in does not: %w", err)
	}
	op.target = request.Target
	return nil
}

// example returns GitHub's own example of the answer.
func (op operation) example(status int) (map[string]any, error) {
	content := op.input.Route.Operation.Responses.Status(status).Value.Content["application/json"]
	data, err := json.Marshal(content.Examples["default"].Value.Value)
	if err != nil {
		return nil, err
	}
	var example map[string]any
	return example, json.Unmarshal(data, &example)
}

func (op operation) validateAnswer(r *http.Request, status int, header http.Header, body string) error {
	out := &openapi3filter.ResponseValidationInput{RequestValidationInput: op.input, Status: status, Header: header}
	out.SetBodyBytes([]byte(body))
	return openapi3filter.ValidateResponse(r.Context(), out)
}

// What the service promises to send, and what the transport adds. Anything else might be the caller's.
var expected = []string{
	"Accept", "Accept-Encoding", "Authorization", "Connection", "Content-Length", "Content-Type", "User-Agent",
	versionHeader,
}

// check says where r is not what the service promises to send, whatever the operation. GitHub's description has no
// request headers. It allows a body and a query, and takes %2F and .. for names.
func check(r *http.Request) string {
	var problems []error
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	for name, want := range map[string]string{
		"Accept":     "application/vnd.github+json",
		"User-Agent": "runner-token-broker",
	} {
		if got := r.Header[name]; len(got) != 1 || got[0] != want {
			problem("%s is %q, not %q", name, got, want)
		}
	}
	// The values are left out: they may be secret.
	if n := len(r.Header["Authorization"]); n > 1 {
		problem("Authorization is there %d times", n)
	}
	if n := len(r.Header[versionHeader]); n != 1 {
		problem("%s is there %d times", versionHeader, n)
	}
	for name := range r.Header {
		if !slices.Contains(expected, name) {
			problem("header %s is not one of the service's", name)
		}
	}
	if r.URL.RawQuery != "" || r.URL.ForceQuery {
		problem("there is a query")
	}
	if strings.Contains(r.URL.EscapedPath(), "%") {
		problem("the path is escaped")
	}
	if path.Clean(r.URL.Path) != r.URL.Path {
		problem("the path leads elsewhere")
	}
	if err := errors.Join(problems...); err != nil {
		return strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	return ""
}
