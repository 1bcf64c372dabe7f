package runner

import "context"

// Issuer serves the targets of its policy, and no other. It is safe for concurrent use.
type Issuer struct {
	Policy   Policy
	Upstream Upstream
}

// Issue returns a token for the request, or an *Error. It ends with ctx.
func (i *Issuer) Issue(ctx context.Context, r Request) (Token, error) {
	if err := i.Policy.Check(r.Target); err != nil {
		return Token{}, err
	}
	return i.Upstream.Create(ctx, r)
}
