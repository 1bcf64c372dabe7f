package github

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"runner-token-broker/internal/runner"
	"runner-token-broker/internal/secret"
)

// FindInstallation returns the number of an App's installation that has the target. Each try has a JWT of its own; see
// do for tries and errors.
func (c *Client) FindInstallation(ctx context.Context, jwt JWT, t runner.Target) (int64, error) {
	var answer struct {
		ID int64 `json:"id"`
	}
	call := call{step: findInstallation, method: http.MethodGet, path: t.Path() + "/installation", jwt: jwt, target: t}
	_, err := c.do(ctx, call, func(body []byte) error {
		if json.Unmarshal(body, &answer) != nil || answer.ID <= 0 {
			return errors.New("there is no installation in it")
		}
		return nil
	})
	return answer.ID, err
}

// CreateInstallationToken makes a token of an App's installation that can make runner tokens for the target, and
// nothing else: https://docs.github.com/rest/apps/apps#create-an-installation-access-token-for-an-app. It returns the
// token and its end.
func (c *Client) CreateInstallationToken(
	ctx context.Context, jwt JWT, installation int64, t runner.Target,
) (token secret.Value, expires time.Time, err error) {
	_, err = c.do(ctx, call{
		step: installationToken, method: http.MethodPost, body: narrow(t), jwt: jwt, target: t,
		path: fmt.Sprintf("app/installations/%d/access_tokens", installation),
	}, func(body []byte) (err error) {
		token, expires, err = parseToken(body)
		return err
	})
	return token, expires, err
}

type grant struct {
	Permissions  map[string]string `json:"permissions"`
	Repositories []string          `json:"repositories,omitempty"`
}

// narrow returns the one permission that runner tokens for the target take, and the one repository.
func narrow(t runner.Target) grant {
	if repository, ok := t.Repository(); ok {
		return grant{map[string]string{"administration": "write"}, []string{repository}}
	}
	return grant{map[string]string{"organization_self_hosted_runners": "write"}, nil}
}
