package apigateway

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"mime"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// event is what the function is told of a request. It is rendered as AWS documents it, with maps that look like the
// documentation: the types of a library would be the ones that the function reads it with.
type event struct {
	gateway   *Gateway
	request   *http.Request
	id        string
	route     string
	variables map[string]string
	body      []byte
	now       time.Time
}

type object = map[string]any

const (
	apiID  = "local"
	userID = "AROALOCAL:laptop"
	orgID  = "o-local"
	stage  = "$default"
	layout = "02/Jan/2006:15:04:05 -0700"
)

func (e event) payload() ([]byte, error) {
	if e.gateway.PayloadVersion == "1.0" {
		return json.Marshal(e.v1())
	}
	return json.Marshal(e.v2())
}

func (e event) v2() object {
	r := e.request
	headers := map[string]string{}
	var cookies []string
	for name, values := range e.headers() {
		if name == "Cookie" {
			for _, value := range values {
				cookies = append(cookies, strings.Split(value, "; ")...)
			}
			continue
		}
		headers[strings.ToLower(name)] = strings.Join(values, ",")
	}
	path := unescape(r.URL.EscapedPath())
	event := object{
		"version":        "2.0",
		"routeKey":       r.Method + " " + e.route,
		"rawPath":        path,
		"rawQueryString": r.URL.RawQuery,
		"headers":        headers,
		"requestContext": object{
			"accountId": e.account(),
			"apiId":     apiID,
			"authorizer": object{"iam": object{
				"accessKey":       e.gateway.Credentials.AccessKeyID,
				"accountId":       e.account(),
				"callerId":        userID,
				"cognitoIdentity": nil,
				"principalOrgId":  orgID,
				"userArn":         e.gateway.CallerARN,
				"userId":          userID,
			}},
			"domainName":   r.Host,
			"domainPrefix": apiID,
			"http": object{
				"method":    r.Method,
				"path":      path,
				"protocol":  r.Proto,
				"sourceIp":  e.sourceIP(),
				"userAgent": r.UserAgent(),
			},
			"requestId": e.id,
			"routeKey":  r.Method + " " + e.route,
			"stage":     stage,
			"time":      e.now.UTC().Format(layout),
			"timeEpoch": e.now.UnixMilli(),
		},
		"pathParameters": e.variables,
	}
	if len(cookies) > 0 {
		event["cookies"] = cookies
	}
	if query := r.URL.Query(); len(query) > 0 {
		joined := map[string]string{}
		for name, values := range query {
			joined[name] = strings.Join(values, ",")
		}
		event["queryStringParameters"] = joined
	}
	body, encoded := e.encodeBody()
	if body != nil {
		event["body"] = body
	}
	event["isBase64Encoded"] = encoded
	return event
}

func (e event) v1() object {
	r := e.request
	body, encoded := e.encodeBody()
	path := unescape(r.URL.EscapedPath())
	query := r.URL.Query()
	return object{
		"version":                         "1.0",
		"resource":                        e.route,
		"path":                            path,
		"httpMethod":                      r.Method,
		"headers":                         last(e.headers()),
		"multiValueHeaders":               e.headers(),
		"queryStringParameters":           last(query),
		"multiValueQueryStringParameters": orNull(query),
		"requestContext": object{
			"accountId":         e.account(),
			"apiId":             apiID,
			"domainName":        r.Host,
			"domainPrefix":      apiID,
			"extendedRequestId": e.id,
			"httpMethod":        r.Method,
			"identity": object{
				"accessKey":                     e.gateway.Credentials.AccessKeyID,
				"accountId":                     e.account(),
				"caller":                        userID,
				"cognitoAmr":                    nil,
				"cognitoAuthenticationProvider": nil,
				"cognitoAuthenticationType":     nil,
				"cognitoIdentityId":             nil,
				"cognitoIdentityPoolId":         nil,
				"principalOrgId":                orgID,
				"sourceIp":                      e.sourceIP(),
				"user":                          userID,
				"userAgent":                     r.UserAgent(),
				"userArn":                       e.gateway.CallerARN,
			},
			"path":             path,
			"protocol":         r.Proto,
			"requestId":        e.id,
			"requestTime":      e.now.UTC().Format(layout),
			"requestTimeEpoch": e.now.UnixMilli(),
			"resourceId":       r.Method + " " + e.route,
			"resourcePath":     e.route,
			"stage":            stage,
		},
		"pathParameters":  e.variables,
		"stageVariables":  nil,
		"body":            body,
		"isBase64Encoded": encoded,
	}
}

// headers returns the request's headers with those that the gateway adds.
func (e event) headers() http.Header {
	h := maps.Clone(e.request.Header)
	h["Host"] = []string{e.request.Host}
	h["X-Forwarded-For"] = append(slices.Clone(h["X-Forwarded-For"]), e.sourceIP())
	h["X-Forwarded-Proto"] = []string{"http"}
	if _, port, err := net.SplitHostPort(e.request.Host); err == nil {
		h["X-Forwarded-Port"] = []string{port}
	}
	return h
}

func (e event) sourceIP() string {
	host, _, _ := net.SplitHostPort(e.request.RemoteAddr)
	return host
}

// account returns the account in an ARN, its fifth field.
func (e event) account() string {
	if fields := strings.Split(e.gateway.CallerARN, ":"); len(fields) > 4 {
		return fields[4]
	}
	return ""
}

// encodeBody returns nil if there is no body.
func (e event) encodeBody() (body any, isBase64 bool) {
	if len(e.body) == 0 {
		return nil, false
	}
	switch media, _, _ := mime.ParseMediaType(e.request.Header.Get("Content-Type")); {
	case strings.HasPrefix(media, "text/"), media == "application/json", media == "application/javascript", media == "application/xml":
		return string(e.body), false
	}
	return base64.StdEncoding.EncodeToString(e.body), true
}

func last(values map[string][]string) map[string]string {
	if len(values) == 0 {
		return nil
	}
	m := map[string]string{}
	for name, v := range values {
		if len(v) > 0 {
			m[name] = v[len(v)-1]
		}
	}
	return m
}

func orNull(values url.Values) any {
	if len(values) == 0 {
		return nil
	}
	return values
}

// unescape is for what net/http has parsed already, and so cannot fail.
func unescape(s string) string {
	u, _ := url.PathUnescape(s)
	return u
}
