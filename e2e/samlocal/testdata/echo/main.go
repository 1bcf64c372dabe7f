// Command echo is a Lambda function that answers an HTTP event with the event.
package main

import (
	"encoding/json"

	"github.com/aws/aws-lambda-go/lambda"
)

func main() {
	lambda.Start(func(event json.RawMessage) (map[string]any, error) {
		return map[string]any{"statusCode": 200, "body": string(event)}, nil
	})
}
