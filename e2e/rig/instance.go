package rig

import (
	"io"
	"maps"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// Instance is what an EC2 instance sees: its metadata service, and the API with the built function behind it. Both can
// be made to fail.
type Instance struct {
	*Function
	Credentials     aws.Credentials
	APIURL, IMDSURL string

	mu    sync.Mutex
	imds  func(path string) int // the status of the next answer; 0: the service's own
	api   func(n int) *Refusal  // instead of the nth answer, from 1; nil: the API's own
	asked int                   // of IMDS
	posts int                   // to the API
}

// Refusal is an answer instead of the API's own.
type Refusal struct {
	Status     int
	Body       string
	RetryAfter string
	Header     http.Header // besides
}

// NewInstance starts the function, and gives the instance a role with the credentials.
func NewInstance(t *testing.T, c aws.Credentials) *Instance {
	t.Helper()
	i := &Instance{Function: NewFunction(t), Credentials: c}
	i.Fail(nil, nil)
	api := i.API(c)
	i.APIURL = Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i.mu.Lock()
		i.posts++
		refusal := i.api(i.posts)
		i.mu.Unlock()
		if refusal == nil {
			api.ServeHTTP(w, r)
			return
		}
		maps.Copy(w.Header(), refusal.Header)
		if refusal.RetryAfter != "" {
			w.Header().Set("Retry-After", refusal.RetryAfter)
		}
		w.WriteHeader(refusal.Status)
		io.WriteString(w, refusal.Body)
	}))
	mock, err := url.Parse(StartIMDS(t, c))
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(mock)
	i.IMDSURL = Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i.mu.Lock()
		i.asked++
		status := i.imds(r.URL.Path)
		i.mu.Unlock()
		if status != 0 {
			w.WriteHeader(status)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	return i
}

// Fail makes imds and api decide what goes wrong from now on, nothing where they are nil, and counts requests anew.
func (i *Instance) Fail(imds func(path string) int, api func(n int) *Refusal) {
	if imds == nil {
		imds = func(string) int { return 0 }
	}
	if api == nil {
		api = func(int) *Refusal { return nil }
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.imds, i.api, i.asked, i.posts = imds, api, 0, 0
}

// Requests is how often IMDS and the API were asked.
func (i *Instance) Requests() (asked, posts int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.asked, i.posts
}
