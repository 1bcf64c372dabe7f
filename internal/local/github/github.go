// Package github stands in for the part of GitHub's REST API that makes runner registration and remove tokens, for PATs
// and for GitHub Apps: the paths of github.com at the root, those of GitHub Enterprise Server 3.19 under /api/v3.
//
// Every request, and every answer that it gives, is checked against GitHub's own OpenAPI description of the API version
// that was asked for. What breaks the description is answered 599, a status that GitHub cannot have, and is listed in
// Violations: a test then fails even if the code under test swallows the answer.
//
// Of an App it knows the keys, the installations, and the permissions and repositories that each was given. It demands
// more than GitHub: a token of an installation must be asked for as narrow as it can be, and each call needs a JWT of
// its own.
//
// It does not know users, scopes or SSO: a PAT is good for every target or for none. It makes no just-in-time
// configurations. It counts no request towards a limit, and locks out no client that repeats bad credentials. Its
// targets are in lower case, and its Apps are installed in organizations alone. config.sh cannot use the tokens.
package github

import (
	"cmp"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"runner-token-broker/internal/local/network"
	"runner-token-broker/internal/secret"
)

// Server is GitHub. The zero Server has every target and knows no credential. It is safe for concurrent use.
type Server struct {
	mu          sync.Mutex
	credentials map[string]bool  // by SHA-256
	targets     map[string]bool  // nil: every one exists
	apps        map[int64]App    // by ID
	grants      map[string]grant // by the token's SHA-256
	jtis        map[string]bool  // of the JWTs so far
	hook        func(*http.Request) *Answer
	requests    []Request
	tokens      []secret.Value
	violations  []string
}

// New returns a GitHub that accepts the given credentials.
func New(credentials ...secret.Value) *Server {
	s := new(Server)
	s.Rotate(credentials...)
	return s
}

// Rotate makes the given credentials the only good ones. With none, every request is answered 401.
func (s *Server) Rotate(credentials ...secret.Value) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.credentials = map[string]bool{}
	for _, c := range credentials {
		s.credentials[c.SHA256()] = true
	}
}

// Restrict makes the given targets ("orgs/acme") the only ones that exist.
func (s *Server) Restrict(targets ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.targets = map[string]bool{}
	for _, t := range targets {
		s.targets[t] = true
	}
}

// OnRequest makes f decide what each later request gets. Where f returns nil, or is nil, GitHub itself decides. f is
// called from many goroutines at once.
func (s *Server) OnRequest(f func(*http.Request) *Answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hook = f
}

// Request is what is recorded of a request.
type Request struct {
	Method, Path  string // the path as it was sent, /api/v3 included
	Authorization string // the SHA-256 of the bearer token; "" if there was none
	APIVersion    string
	Installation  int64 // whose token the bearer token is; 0 for a PAT or a JWT
}

// Requests returns all requests so far.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// Tokens returns all tokens so far, for a test to look for where they must not be: those of runners and of
// installations, which were handed out, and the JWTs, which were sent.
func (s *Server) Tokens() []secret.Value {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.tokens)
}

// Violations returns what broke GitHub's description so far, or was not what the service promises to send.
func (s *Server) Violations() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.violations)
}

// Answer is what a request gets. With Status 0 it is GitHub's own answer, with the other fields applied to it.
type Answer struct {
	Status int
	Header http.Header   // is added to GitHub's own or replaces it; a nil value removes one
	Body   string        // unused where Status is 0
	Life   time.Duration // of the token in GitHub's own answer; an hour if 0

	// Broken says that the answer breaks GitHub's description on purpose.
	Broken bool

	Delay time.Duration // before anything is answered, or until the client leaves
	Fault network.Fault // what happens to the answer on its way
}

// Refusal is GitHub's way of saying no: status, and message in the body.
func Refusal(status int, message string) *Answer {
	body, _ := json.Marshal(map[string]string{
		"message":           message,
		"documentation_url": "https://docs.github.com/rest/actions/self-hosted-runners",
		"status":            strconv.Itoa(status),
	})
	return &Answer{Status: status, Body: string(body)}
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.record(r)
	op, problem := describe(r)
	if problem != "" {
		s.violate(w, r, problem)
		return
	}
	answer, who := s.answer(r, op)
	if !answer.Fault.Answer(w, r, answer.Delay) {
		return
	}
	if answer.Status == 0 {
		if err := s.create(answer, op, who); err != nil {
			s.violate(w, r, "answer: "+err.Error())
			return
		}
	}
	header := ownHeader(op, who)
	for k, v := range answer.Header {
		header[http.CanonicalHeaderKey(k)] = v
	}
	if !answer.Broken {
		if err := op.validateAnswer(r, answer.Status, header, answer.Body); err != nil {
			s.violate(w, r, "answer: "+err.Error())
			return
		}
	}
	maps.Copy(w.Header(), header)
	answer.Fault.Write(w, answer.Status, []byte(answer.Body))
}

// answer decides in GitHub's order: version, credential, target, what the credential may do.
func (s *Server) answer(r *http.Request, op operation) (*Answer, bearer) {
	s.mu.Lock()
	hook := s.hook
	s.mu.Unlock()
	who, refusal := s.authenticate(r, op) // in any case: the JWT of a call that the hook answers is used up
	answer := new(Answer)
	if hook != nil {
		if a := hook(r); a != nil {
			clone := *a // the hook may hand out one Answer many times, and ours gets a token
			answer = &clone
		}
	}
	if answer.Status != 0 {
		return answer, who
	}
	if op.document == nil {
		refusal = Refusal(http.StatusBadRequest, "API version "+strconv.Quote(op.version)+" is not a supported version")
	}
	if refusal == nil {
		refusal = s.authorize(who, op)
	}
	if refusal != nil {
		answer.Status, answer.Body = refusal.Status, refusal.Body
	}
	return answer, who
}

// bearer is what a request comes with: a PAT, the JWT of an App, or the token of an installation.
type bearer struct {
	app          *App          // whose JWT it is
	installation *Installation // whose token it is
	grant        grant         // of that token
}

// authenticate finds out what r comes with.
func (s *Server) authenticate(r *http.Request, op operation) (bearer, *Answer) {
	token, ok := bearerToken(r)
	if op.kind != runnerToken {
		return s.verify(token)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if g, ok := s.grants[token.SHA256()]; ok {
		installation := s.installation(g.installation)
		if installation == nil || installation.Suspended || !time.Now().Before(g.expires) {
			return bearer{}, Refusal(http.StatusUnauthorized, "Bad credentials")
		}
		return bearer{installation: installation, grant: g}, nil
	}
	switch {
	case !ok:
		return bearer{}, Refusal(http.StatusUnauthorized, "Requires authentication")
	case !s.credentials[token.SHA256()]:
		return bearer{}, Refusal(http.StatusUnauthorized, "Bad credentials")
	}
	return bearer{}, nil
}

// authorize decides whether there is what is asked for, and whether the bearer may have it.
func (s *Server) authorize(who bearer, op operation) *Answer {
	s.mu.Lock()
	exists := s.targets == nil || s.targets[op.target.Path()] || op.kind == installationToken
	s.mu.Unlock()
	switch {
	case !exists:
		return Refusal(http.StatusNotFound, "Not Found")
	case op.kind == findInstallation && who.app.at(op.target) == nil:
		return Refusal(http.StatusNotFound, "Not Found")
	case op.kind == installationToken:
		return who.app.refuse(op.installation, op.asked)
	case who.installation != nil && !who.grant.fits(*who.installation, op.target):
		return Refusal(http.StatusForbidden, "Resource not accessible by integration")
	}
	return nil
}

// create makes what is asked for.
func (s *Server) create(a *Answer, op operation, who bearer) (err error) {
	var body any
	switch op.kind {
	case runnerToken:
		a.Status, body = http.StatusCreated, s.createRunnerToken(a)
	case installationToken:
		a.Status = http.StatusCreated
		body, err = s.createInstallationToken(a, op, who)
	case findInstallation:
		a.Status = http.StatusOK
		body, err = describeInstallation(op, who)
	}
	if err != nil {
		return err
	}
	data, err := json.Marshal(body)
	a.Body = string(data)
	return err
}

func (s *Server) createRunnerToken(a *Answer) any {
	token := "A" + (rand.Text() + rand.Text())[:28]
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens = append(s.tokens, secret.New(token))
	// GitHub's examples have milliseconds and a zone that is not UTC. Both are easily forgotten.
	return map[string]string{
		"token":      token,
		"expires_at": a.end().In(time.FixedZone("", -8*60*60)).Format("2006-01-02T15:04:05.000-07:00"),
	}
}

// end returns when a token that is made now expires.
func (a *Answer) end() time.Time { return time.Now().Add(cmp.Or(a.Life, time.Hour)) }

func ownHeader(op operation, who bearer) http.Header {
	header := http.Header{
		"Content-Type":                  {"application/json; charset=utf-8"},
		"X-Github-Api-Version-Selected": {op.version},
		"X-Github-Media-Type":           {"github.v3; format=json"},
		"X-Github-Request-Id":           {requestID()},
		"X-Ratelimit-Limit":             {"5000"},
		"X-Ratelimit-Remaining":         {"4987"},
		"X-Ratelimit-Reset":             {strconv.FormatInt(time.Now().Add(time.Hour).Unix(), 10)},
		"X-Ratelimit-Resource":          {"core"},
		"X-Ratelimit-Used":              {"13"},
	}
	switch scope := op.target.Scope(); {
	case who.installation != nil && permissions[scope] != "":
		header.Set("X-Accepted-Github-Permissions", permissions[scope]+"=write")
	case op.kind == runnerToken && who.installation == nil:
		header.Set("X-Accepted-Oauth-Scopes", scopes[scope])
		header.Set("X-Oauth-Scopes", "admin:org, manage_runners:enterprise, repo")
	}
	return header
}

func requestID() string {
	var b [17]byte
	rand.Read(b[:])
	return fmt.Sprintf("%X:%X:%X:%X:%X", b[:2], b[2:5], b[5:9], b[9:13], b[13:])
}

func (s *Server) record(r *http.Request) {
	request := Request{
		Method:     r.Method,
		Path:       r.URL.EscapedPath(),
		APIVersion: r.Header.Get(versionHeader),
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if token, ok := bearerToken(r); ok {
		request.Authorization = token.SHA256()
		request.Installation = s.grants[request.Authorization].installation
		if isJWT(token) {
			s.tokens = append(s.tokens, token)
		}
	}
	s.requests = append(s.requests, request)
}

func (s *Server) violate(w http.ResponseWriter, r *http.Request, problem string) {
	problem = fmt.Sprintf("%s %s: %s", r.Method, r.URL.EscapedPath(), problem)
	s.mu.Lock()
	s.violations = append(s.violations, problem)
	s.mu.Unlock()
	http.Error(w, problem, 599)
}

func bearerToken(r *http.Request) (secret.Value, bool) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return secret.New(token), ok
}
