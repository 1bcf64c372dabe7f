package handler

import (
	"bytes"
	"encoding/json"
	"strings"
)

// event is what counts of an event, of whatever kind.
type event struct {
	gateway *gatewayEvent              // of an HTTP event, else nil
	fields  map[string]json.RawMessage // of a direct one; nil if it is not an object
	invalid bool                       // a field of an HTTP event has the wrong type
}

// gatewayEvent is payload format 2.0 (HTTP API, function URL) or 1.0 (REST API, which gives no version):
// https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-develop-integrations-lambda.html.
type gatewayEvent struct {
	Version           string              `json:"version"`
	RouteKey          string              `json:"routeKey"`   // 2.0
	RawPath           string              `json:"rawPath"`    // 2.0
	Resource          string              `json:"resource"`   // 1.0
	Path              string              `json:"path"`       // 1.0
	HTTPMethod        string              `json:"httpMethod"` // 1.0
	Headers           map[string]string   `json:"headers"`
	MultiValueHeaders map[string][]string `json:"multiValueHeaders"` // 1.0; of what is here, Headers has the last
	RequestContext    *requestContext     `json:"requestContext"`
}

type requestContext struct {
	RequestID string `json:"requestId"`
	Stage     string `json:"stage"`
	HTTP      struct {
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
}

// decode reads an event. It never fails: where a field has the wrong type, the others are still read, so that the log
// line of a bad event says all that is known.
func decode(payload []byte) event {
	if bytes.Contains(payload, []byte(`"requestContext"`)) { // else no HTTP event; saves direct ones a pass
		var g gatewayEvent
		err := json.Unmarshal(payload, &g)
		if g.RequestContext != nil {
			return event{gateway: &g, invalid: err != nil}
		}
	}
	// A map, since a struct would ignore the case of names: a typing error must not become a default.
	var fields map[string]json.RawMessage
	if json.Unmarshal(payload, &fields) != nil {
		return event{}
	}
	if _, ok := fields["requestContext"]; ok { // null: an HTTP event with nothing in it
		return event{gateway: &gatewayEvent{RequestContext: new(requestContext)}, invalid: true}
	}
	return event{fields: fields}
}

func (e event) entry() string {
	if e.gateway != nil {
		return "http"
	}
	return "direct"
}

// The methods below read the fields where the event's own format has them: of another format's they must not be
// believed. Those of a nil gatewayEvent are empty.

func (g *gatewayEvent) isFormat2() bool { return g.Version == "2.0" }

// caller returns the caller's ARN, for the log alone: a direct invoker can forge an HTTP event.
func (g *gatewayEvent) caller() string {
	switch {
	case g == nil:
		return ""
	case g.isFormat2():
		return g.RequestContext.Authorizer.IAM.UserARN
	}
	return g.RequestContext.Identity.UserARN
}

func (g *gatewayEvent) sourceIP() string {
	switch {
	case g == nil:
		return ""
	case g.isFormat2():
		return g.RequestContext.HTTP.SourceIP
	}
	return g.RequestContext.Identity.SourceIP
}

func (g *gatewayEvent) requestID() string {
	if g == nil {
		return ""
	}
	return g.RequestContext.RequestID
}

func (g *gatewayEvent) method() string {
	if g.isFormat2() {
		return g.RequestContext.HTTP.Method
	}
	return g.HTTPMethod
}

func (g *gatewayEvent) path() string {
	if g.isFormat2() {
		return g.RawPath
	}
	return g.Path
}

// route returns the route that API Gateway matched: "POST /orgs/{org}/..." in format 2.0, "/orgs/{org}/..." in 1.0.
func (g *gatewayEvent) route() string {
	if g.isFormat2() {
		return g.RouteKey
	}
	return g.Resource
}

// header returns the header's values, whatever the case of its name: API Gateway lower-cases names, SAM local and REST
// APIs do not.
func (g *gatewayEvent) header(name string) []string {
	var values []string
	if len(g.MultiValueHeaders) == 0 {
		for n, value := range g.Headers {
			if strings.EqualFold(n, name) {
				values = append(values, value)
			}
		}
	}
	for n, all := range g.MultiValueHeaders {
		if strings.EqualFold(n, name) {
			values = append(values, all...)
		}
	}
	return values
}
