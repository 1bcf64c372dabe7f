package main

import (
	"bytes"
	"encoding/base64"
	"regexp"
	"strings"
	"text/template"
)

// EC2Launch runs this by Windows PowerShell 5.1 and hands on its exit status. It takes its tags in lower case only, and
// a mistake in the text between them would end with 0 and without a word. So that text is always the same but for
// values in single quotes, and all else is packed: lines of one's own too, whose mistakes are caught here.
var windowsHead = template.Must(template.New("").Funcs(template.FuncMap{"quote": quote, "parameter": parameter}).Parse(
	`<powershell>
# Made by make user-data. It unpacks windows.ps1, runs it, and ends with its exit status.
$status = 1
try {
	$ErrorActionPreference = 'Stop'
	$settings = @{
{{- range .Settings}}
		{{parameter .Name}} = {{quote .Value}}
{{- end}}
	}
	$packed = [ordered]@{
{{- range .Files}}
		'{{.Name}}' = '{{.Packed}}'
{{- end}}
	}
	$dir = Join-Path $env:ProgramFiles 'runner-token-broker' # where jobs cannot write
	$null = New-Item -ItemType Directory -Force $dir
	foreach ($name in $packed.Keys) {
		$bytes = [IO.MemoryStream]::new([Convert]::FromBase64String($packed[$name]))
		$unzip = [IO.Compression.GZipStream]::new($bytes, [IO.Compression.CompressionMode]::Decompress)
		$text = [IO.StreamReader]::new($unzip, [Text.Encoding]::UTF8).ReadToEnd()
		[IO.File]::WriteAllText((Join-Path $dir $name), $text, [Text.Encoding]::UTF8) # with the mark that 5.1 needs
	}
{{- if .Extra}}
	$global:LASTEXITCODE = 0
	& (Join-Path $dir 'extra.ps1')
	if ($LASTEXITCODE) {
		$status = $LASTEXITCODE
		throw "extra.ps1 ended with $status"
	}
{{- end}}
	$global:LASTEXITCODE = 1
	& (Join-Path $dir 'windows.ps1') @settings
	$status = $LASTEXITCODE
} catch {
	$message = "$_ $($_.InvocationInfo.PositionMessage)" -replace '\s+', ' '
	[Console]::Error.WriteLine("runner: $message")
	$now = [DateTime]::UtcNow.ToString('s')
	Add-Content "$env:ProgramData\runner-token-broker.log" "${now}Z $message" -ErrorAction Ignore
}
exit $status
</powershell>
{{- if .Detach}}
<detach>true</detach>
{{- end}}
`))

// windows returns ASCII, whatever is in the files: 5.1 would read other letters in the machine's code page.
func (o order) windows() []byte {
	type file struct{ Name, Packed string }
	type setting struct{ Name, Value string }
	var head struct {
		Settings []setting
		Files    []file
		Extra    bool
		Detach   bool
	}
	for _, s := range o.settings {
		head.Settings = append(head.Settings, setting{s.name, s.value})
	}
	add := func(name, text string) {
		head.Files = append(head.Files, file{name, base64.StdEncoding.EncodeToString(pack(text))})
	}
	add("windows.ps1", strip(o.script))
	if head.Extra = o.extra != ""; head.Extra {
		add("extra.ps1", o.extra+"\n")
	}
	head.Detach = o.detach
	var b bytes.Buffer
	if err := windowsHead.Execute(&b, head); err != nil {
		panic(err) // the template is a constant
	}
	return b.Bytes()
}

// quote makes a string of PowerShell's, in which nothing but the quote means something.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// comment is a line that is nothing else, or the end of one. No quote comes after it, so it does not begin in a string;
// the script has no string of several lines.
var comment = regexp.MustCompile(`(?m)^[ \t]*#([^>\n].*)?\n|^[ \t]*\n|^[ \t]+|[ \t]+# [^'"\n]*$`)

// strip takes out comments, empty lines and indentation. They are a tenth of what is packed.
func strip(script string) string { return comment.ReplaceAllString(script, "") }
