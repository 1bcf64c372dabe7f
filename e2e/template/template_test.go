package template_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"runner-token-broker/e2e/rig"
)

// situation is the parameters that the template is given.
type situation struct {
	name       string
	parameters map[string]string
}

// stack is a template with parameters as CloudFormation would have it: the conditions are decided, and what they leave
// out is gone.
type stack struct {
	given                          map[string]string
	parameters, resources, outputs map[string]any
}

// check says what is wrong with a stack, and which mistakes it notices.
type check struct {
	name    string
	of      func(stack, *problems)
	notices []mistake
}

// mistake is a change to a template that must not go unnoticed.
type mistake struct {
	name  string
	path  string // of what is changed, with a slash between names and indexes
	value string // in JSON; "" removes what is there
}

// hold runs the checks on the template in each situation. Then it runs each on copies with its mistakes: a check that
// cannot fail proves nothing.
func hold(t *testing.T, file string, situations []situation, checks []check) {
	t.Helper()
	source := rig.Translate(t, rig.ReadFile(t, file))[0].Source
	copies := []any{source}
	for _, c := range checks {
		for _, m := range c.notices {
			copies = append(copies, m.in(source))
		}
	}
	templates := rig.Translate(t, copies...)
	right, wrong := templates[0], templates[1:]
	if right.Error != "" {
		t.Fatalf("SAM does not translate it: %s", right.Error)
	}
	for _, c := range checks {
		broken := wrong[:len(c.notices)]
		wrong = wrong[len(c.notices):]
		t.Run(c.name, func(t *testing.T) {
			for _, s := range situations {
				t.Run(s.name, func(t *testing.T) {
					var p problems
					c.of(resolve(right.Translated, s.parameters), &p)
					for _, problem := range p {
						t.Error(problem)
					}
				})
			}
			for i, m := range c.notices {
				template := broken[i]
				t.Run("notices "+m.name, func(t *testing.T) {
					if text(template.Source) == text(source) {
						t.Fatalf("the template has it already, or has no %s", m.path)
					}
					if template.Error != "" {
						t.Fatalf("SAM does not translate it: %s", template.Error)
					}
					var p problems
					for _, s := range situations {
						c.of(resolve(template.Translated, s.parameters), &p)
					}
					if len(p) == 0 {
						t.Fatal("it does not")
					}
					t.Log(p[0])
				})
			}
			if len(c.notices) == 0 {
				t.Error("it names no mistake that it notices")
			}
		})
	}
}

// in returns a copy of the template with the mistake, if it has that place.
func (m mistake) in(source map[string]any) (broken any) {
	var value any
	if m.value != "" {
		value = parse(m.value)
	}
	broken = parse(text(source))
	path := strings.Split(m.path, "/")
	last := path[len(path)-1]
	switch parent := at(broken, path[:len(path)-1]...).(type) {
	case map[string]any:
		parent[last] = value
		if value == nil {
			delete(parent, last)
		}
	case []any:
		if i, err := strconv.Atoi(last); err == nil && i < len(parent) {
			parent[i] = value
		}
	}
	return broken
}

// resolve decides the conditions of a translated template.
func resolve(translated map[string]any, given map[string]string) stack {
	parameters := at(translated, "Parameters").(map[string]any)
	var value func(v any) string
	value = func(v any) string {
		if name, ok := at(v, "Ref").(string); ok {
			if s, ok := given[name]; ok {
				return s
			}
			return fmt.Sprint(at(parameters, name, "Default"))
		}
		if list := at(v, "Fn::Join", "1"); list != nil { // of a list parameter
			return value(list)
		}
		return fmt.Sprint(v)
	}
	var holds func(condition any) bool
	holds = func(condition any) bool {
		if not := at(condition, "Fn::Not", "0"); not != nil {
			return !holds(not)
		}
		if equals, ok := at(condition, "Fn::Equals").([]any); ok {
			return value(equals[0]) == value(equals[1])
		}
		if name, ok := at(condition, "Condition").(string); ok {
			return holds(at(translated, "Conditions", name))
		}
		if all, ok := at(condition, "Fn::And").([]any); ok {
			return !slices.ContainsFunc(all, func(c any) bool { return !holds(c) })
		}
		if any, ok := at(condition, "Fn::Or").([]any); ok {
			return slices.ContainsFunc(any, holds)
		}
		panic("this test does not know the condition " + text(condition))
	}
	decided := func(name any) bool { return name == nil || holds(at(translated, "Conditions", name.(string))) }

	// keep returns what is left of a value, and whether anything is.
	var keep func(v any) (any, bool)
	keep = func(v any) (any, bool) {
		switch v := v.(type) {
		case []any:
			left := []any{}
			for _, e := range v {
				if e, ok := keep(e); ok {
					left = append(left, e)
				}
			}
			return left, true
		case map[string]any:
			if branch, ok := v["Fn::If"].([]any); ok {
				if decided(branch[0]) {
					return keep(branch[1])
				}
				return keep(branch[2])
			}
			if v["Ref"] == "AWS::NoValue" {
				return nil, false
			}
			left := map[string]any{}
			for name, e := range v {
				if e, ok := keep(e); ok {
					left[name] = e
				}
			}
			return left, true
		}
		return v, true
	}
	section := func(name string) map[string]any {
		left := map[string]any{}
		for name, v := range at(translated, name).(map[string]any) {
			if decided(at(v, "Condition")) {
				left[name], _ = keep(v)
			}
		}
		return left
	}
	return stack{given, parameters, section("Resources"), section("Outputs")}
}

// properties returns those of a resource.
func (s stack) properties(name string) any { return at(s.resources, name, "Properties") }

// ofType returns the properties of all resources of a type.
func (s stack) ofType(kind string) map[string]any {
	found := map[string]any{}
	for name, r := range s.resources {
		if at(r, "Type") == kind {
			found[name] = at(r, "Properties")
		}
	}
	return found
}

// problems are what is wrong.
type problems []string

func (p *problems) add(format string, args ...any) { *p = append(*p, fmt.Sprintf(format, args...)) }

// want wants a value to be what is written in JSON.
func (p *problems) want(what string, got any, want string) {
	if got, want := text(got), text(parse(want)); got != want {
		p.add("%s: %s, want %s", what, got, want)
	}
}

// wantAll wants these values, in whatever order.
func (p *problems) wantAll(what string, got, want []string) {
	count := map[string]int{}
	for _, v := range got {
		count[v]++
	}
	for _, v := range want {
		count[v]--
	}
	for _, v := range slices.Sorted(maps.Keys(count)) {
		switch n := count[v]; {
		case n > 0:
			p.add("%s: %s, %d too many", what, v, n)
		case n < 0:
			p.add("%s: %s, %d too few", what, v, -n)
		}
	}
}

// wantRights wants a role to have these statements, in whatever order, and nothing else.
func (p *problems) wantRights(role any, want []string) {
	var got []string
	policies, _ := at(role, "Policies").([]any)
	for _, policy := range policies {
		statements, _ := at(policy, "PolicyDocument", "Statement").([]any)
		for _, statement := range statements {
			got = append(got, text(statement))
		}
	}
	for i := range want {
		want[i] = text(parse(want[i]))
	}
	p.wantAll("right", got, want)
	p.want("managed policies", at(role, "ManagedPolicyArns"), `null`)
}

// at returns what is at the path of names and indexes in a JSON value, nil if nothing is.
func at(v any, path ...string) any {
	for _, step := range path {
		switch parent := v.(type) {
		case map[string]any:
			v = parent[step]
		case []any:
			i, err := strconv.Atoi(step)
			if err != nil || i >= len(parent) {
				return nil
			}
			v = parent[i]
		default:
			return nil
		}
	}
	return v
}

// text returns a value as JSON, always in the same form.
func text(v any) string {
	out, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(out)
}

func parse(text string) (v any) {
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		panic(fmt.Sprintf("%s: %v", text, err))
	}
	return v
}
