package network

import (
	"errors"
	"io"
	"net"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"runner-token-broker/internal/runner"
	"runner-token-broker/internal/secret"
)

// Undecoded is the SDK's code of an answer that names none: AWS's all do.
const Undecoded = "UnknownError"

// RefuseAWS returns the Error for an error of the AWS SDK. causeOf says what the status and the code of the service's
// answer mean. The texts are AWS's, but for one: the error of an answer that cannot be decoded may quote the answer.
func RefuseAWS(service string, err error, causeOf func(status int, code string) runner.Cause) *runner.Error {
	status := 0
	if answer, ok := errors.AsType[*smithyhttp.ResponseError](err); ok {
		status = answer.HTTPStatusCode()
	}
	cutOff := has[net.Error](err) || errors.Is(err, io.ErrUnexpectedEOF)
	if has[*smithy.DeserializationError](err) && !cutOff {
		return causeOf(status, Undecoded).Refuse("the answer of %s, %d, could not be decoded", service, status)
	}
	refused, ok := errors.AsType[smithy.APIError](err)
	if !ok {
		return Refuse("no answer from "+service+", or a part of one", err)
	}
	return causeOf(status, refused.ErrorCode()).Refuse("%s answered %d %s: %s",
		service, status, secret.Text(refused.ErrorCode()), secret.Text(refused.ErrorMessage()))
}
