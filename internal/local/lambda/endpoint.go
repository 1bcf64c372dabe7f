package lambda

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"

	"runner-token-broker/internal/local/sigv4"
)

// Endpoint is Lambda's API with one operation, Invoke.
//
// It does not know IAM: its one caller may invoke the function. It returns no log (X-Amz-Log-Result), hands on no
// client context, knows no version but $LATEST, and lets an Event be as large as a request that waits.
type Endpoint struct {
	Service     *Service
	Credentials aws.Credentials // of the caller
	Log         *log.Logger     // gets a line for each request, with the reason of a refusal; nil: none
}

func (e *Endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	status, why := e.serve(w, r)
	if e.Log != nil {
		e.Log.Printf("%s %q %d %s", r.Method, r.URL.EscapedPath(), status, why)
	}
}

// serve answers r, and returns what to log about it.
func (e *Endpoint) serve(w http.ResponseWriter, r *http.Request) (status int, why string) {
	f := e.Service.function
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxPayload))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return refuse(w, http.StatusRequestEntityTooLarge, "RequestTooLargeException",
			fmt.Sprintf("Request must be smaller than %d bytes for the InvokeFunction operation", maxPayload))
	}
	if err != nil {
		return refuse(w, http.StatusBadRequest, "InvalidRequestContentException", "The body cannot be read")
	}
	verifier := sigv4.Verifier{Credentials: e.Credentials, Region: f.Region, Service: "lambda"}
	if refusal, ok := errors.AsType[*sigv4.Error](verifier.Verify(r, body)); ok {
		return refuse(w, http.StatusForbidden, refusal.Code, refusal.Message)
	}
	rest, ok := strings.CutPrefix(r.URL.Path, "/2015-03-31/functions/")
	name, isInvoke := strings.CutSuffix(rest, "/invocations")
	if !ok || !isInvoke || r.Method != http.MethodPost {
		return refuse(w, http.StatusNotFound, "UnknownOperationException", "This stand-in knows Invoke alone")
	}
	if qualifier := r.URL.Query().Get("Qualifier"); qualifier != "" {
		name += ":" + qualifier
	}
	names := []string{f.Name, account + ":function:" + f.Name, f.arn()}
	if !slices.Contains(names, strings.TrimSuffix(name, ":$LATEST")) {
		return refuse(w, http.StatusNotFound, "ResourceNotFoundException", "Function not found: "+name)
	}
	if len(body) == 0 {
		body = []byte("{}")
	}
	if !json.Valid(body) {
		return refuse(w, http.StatusBadRequest, "InvalidRequestContentException", "The payload is not JSON")
	}

	h := w.Header()
	h.Set("X-Amz-Executed-Version", "$LATEST")
	switch kind := r.Header.Get("X-Amz-Invocation-Type"); kind {
	case "", "RequestResponse":
	case "DryRun":
		w.WriteHeader(http.StatusNoContent)
		return http.StatusNoContent, ""
	case "Event":
		go e.Service.Invoke(context.WithoutCancel(r.Context()), body) // Close ends it
		w.WriteHeader(http.StatusAccepted)
		return http.StatusAccepted, ""
	default:
		return refuse(w, http.StatusBadRequest, "InvalidParameterValueException", "Unknown invocation type "+kind)
	}
	result, err := e.Service.Invoke(r.Context(), body)
	if err != nil {
		return refuse(w, http.StatusInternalServerError, "ServiceException", err.Error())
	}
	h.Set("Content-Type", "application/json")
	h.Set("X-Amzn-Requestid", result.RequestID)
	if result.FunctionError != "" {
		h.Set("X-Amz-Function-Error", result.FunctionError)
	}
	w.Write(result.Payload)
	return http.StatusOK, result.FunctionError
}

func refuse(w http.ResponseWriter, status int, code, message string) (int, string) {
	body, _ := json.Marshal(map[string]string{"Type": "User", "Message": message})
	w.Header().Set("X-Amzn-Errortype", code)
	reply(w, status, string(body))
	return status, code + ": " + message
}
