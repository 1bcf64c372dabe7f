package apigateway

import (
	"encoding/base64"
	"maps"
	"mime"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// event is what the function is told about a request. It is rendered with maps that look like AWS's documentation. The
// types of aws-lambda-go would prove less: the function reads the event with them.
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

func (e event) render() object {
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
	path := r.URL.Path
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
	event["isBase64Encoded"] = false
	if len(e.body) > 0 {
		event["body"], event["isBase64Encoded"] = e.encodeBody()
	}
	return event
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

func (e event) encodeBody() (body string, isBase64 bool) {
	media, _, _ := mime.ParseMediaType(e.request.Header.Get("Content-Type"))
	text := []string{"application/json", "application/javascript", "application/xml"}
	if strings.HasPrefix(media, "text/") || slices.Contains(text, media) {
		return string(e.body), false
	}
	return base64.StdEncoding.EncodeToString(e.body), true
}

// unescape cannot fail: net/http has parsed the path already.
func unescape(s string) string {
	u, _ := url.PathUnescape(s)
	return u
}
