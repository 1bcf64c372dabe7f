package runner

import "context"

// Issuer serves the targets of its policy, and no other. It is safe for concurrent use.
type Issuer struct {
	Policy   Policy
	Upstream Upstream
}

// notAllowed has no remedy: the sentence says it.
var notAllowed = Cause{Name: "not-allowed", Code: TargetNotAllowed}

// Issue returns a token for the request, or an *Error. It ends with ctx.
func (i *Issuer) Issue(ctx context.Context, r Request) (Token, error) {
	if !i.Policy.Allows(r.Target) {
		e := notAllowed.Refuse("%s is not in ALLOWED_TARGETS", r.Target)
		e.Message = r.Target.Path() + " is not one of the targets this service serves"
		return Token{}, e
	}
	return i.Upstream.Create(ctx, r)
}
