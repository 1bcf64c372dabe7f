# Tests the parts of windows.ps1 that do not need Windows: pwsh windows.tests.ps1. It needs PowerShell 7 and nothing
# else. botocore made testdata/sigv4.json.
$good = @{ ApiUrl = 'https://a1.execute-api.eu-central-1.amazonaws.com'; Target = 'orgs/acme'; Region = 'eu-central-1' }
. "$PSScriptRoot/windows.ps1" -FunctionsOnly @good
$TokenOnly = $true # no log file
$passed = 0
$failed = 0

function Test-Equal($Name, $Got, $Want) {
	if ("$Got" -ceq "$Want") { $script:passed++; return }
	$script:failed++
	"FAILED: $Name`n   got $Got`n  want $Want"
}

function Get-Failure([scriptblock]$Action) { # the message of what it throws
	try { & $Action } catch { $_.Exception.Message }
}

$vectors = Get-Content -Raw "$PSScriptRoot/testdata/sigv4.json" | ConvertFrom-Json
Test-Equal 'there are vectors' (@($vectors).Count -gt 5) $true
foreach ($v in $vectors) {
	$got = Get-Authorization $v.host $v.path $v.region $v.date $v.access_key $v.secret_key $v.session_token
	Test-Equal "signature: $($v.name)" $got $v.authorization
}

$answer = '{"token":"AABF3J-x_9","expires_at":"2026-11-23T19:04:05Z","expires_in":3540,"runner_url":"https://github.com/acme"}'
Test-Equal 'token of an answer' (Get-Field $answer 'token') 'AABF3J-x_9'
Test-Equal 'runner_url of an answer' (Get-Field $answer 'runner_url') 'https://github.com/acme'
Test-Equal 'an answer has no code' (Get-Field $answer 'code') ''
$refusal = '{"message":"not \"code\":\"x\"","code":"TargetNotAllowed","request_id":"r"}'
Test-Equal 'code of a refusal' (Get-Field $refusal 'code') 'TargetNotAllowed'
Test-Equal 'the gateway has no code' (Get-Field '{"message":"Forbidden"}' 'code') ''
Test-Equal 'HTML has no code' (Get-Field '<html>"code"</html>' 'code') ''
Test-Equal 'nothing has no code' (Get-Field '' 'code') ''

foreach ($case in @(0, ''), @(429, ''), @(503, ''), @(503, 'RateLimited'), @(503, 'Unavailable'), @(504, ''),
	@(500, ''), @(502, '')) {
	Test-Equal "retried: $case" (Test-Retryable $case[0] $case[1]) $true
}
foreach ($case in @(400, 'InvalidRequest'), @(403, ''), @(403, 'TargetNotAllowed'), @(404, ''), @(404, 'TargetNotFound'),
	@(500, 'CredentialMissing'), @(500, 'Internal'), @(502, 'CredentialRejected'), @(301, '')) {
	Test-Equal "not retried: $case" (Test-Retryable $case[0] $case[1]) $false
}
foreach ($try in 1..50) {
	$ms = Get-Wait ([TimeSpan]::FromSeconds(7)) 2000
	Test-Equal "never before Retry-After: $ms" ($ms -ge 7000 -and $ms -le 9000) $true
	$ms = Get-Wait $null 4000
	Test-Equal "between half the wait and all of it: $ms" ($ms -ge 2000 -and $ms -le 4000) $true
}
Test-Equal 'remedy of a code' ((Get-Remedy 502 'CredentialRejected') -match 'new PAT') $true
Test-Equal 'remedy of an unknown code' ((Get-Remedy 500 'Internal') -match 'log') $true
Test-Equal 'remedy of the gateway' ((Get-Remedy 403 '') -match '^API Gateway') $true
Test-Equal 'remedy of the network' ((Get-Remedy 0 '') -match 'network') $true

Test-Equal 'settings that are good' (Get-SettingProblem) ''
foreach ($bad in @('ApiUrl', ''), @('ApiUrl', 'http://example.com'), @('Target', ''), @('Target', 'orgs/Acme'),
	@('Target', 'acme'), @('Target', 'repos/acme/..'), @('Region', ''), @('Region', 'Frankfurt'), @('RunnerLabels', 'a b'),
	@('RunnerGroup', 'a"b'), @('RunnerGroup', 'a\'), @('RunnerVersion', 'v2.330.0'), @('RunnerEphemeral', 'yes'),
	@('RunnerDir', 'C:\my runner')) {
	$name, $value = $bad
	$before = Get-Variable $name -ValueOnly
	Set-Variable $name $value
	$problems = @(Get-SettingProblem)
	Test-Equal "$name=$value is one problem" $problems.Count 1
	Test-Equal "$name=$value is named" ("$problems" -match "^$name is (malformed|not set): set it to ") $true
	Set-Variable $name $before
}
$ApiUrl = $Target = $Region = ''
Test-Equal 'all problems at once' (@(Get-SettingProblem) -replace ' .*') 'ApiUrl Target Region'
$Target = 'orgs/acme'

# From here on there is neither a network nor a clock.
function Start-Sleep { }
function Get-Imds($Path) { $imds[$Path] }
$imds = @{
	'iam/security-credentials/' = "github-runner`n"
	'iam/security-credentials/github-runner' = "{`n  `"AccessKeyId`" : `"ASIA1`",`n  `"SecretAccessKey`" : `"s/+`"`n}"
}
Test-Equal 'credentials' (Get-Field (Get-RoleCredential) 'SecretAccessKey') 's/+'
$imds['iam/security-credentials/github-runner'] = '{"Code":"Failed"}'
Test-Equal 'credentials without keys' (Get-RoleCredential) ''
$imds['iam/security-credentials/'] = ''
Test-Equal 'no role' (Get-RoleCredential) ''

function Send-Request($Method, $Url, $Headers, $Seconds) { @{ Date = $date } }
$date = [DateTimeOffset]::UtcNow.AddSeconds(30)
Test-Equal 'the clock is right' (Get-ClockProblem) ''
$date = $null
Test-Equal 'no time to compare with' (Get-ClockProblem) ''
$date = [DateTimeOffset]::UtcNow.AddHours(1)
Test-Equal 'the clock is off' ((Get-ClockProblem) -match 'off by -3[56]\d\d s') $true
Test-Equal 'a wait that is over' (Get-Failure { Wait-Until 4 0 { 'the clock' } }) '4 the clock (after 0 s)'
$left = 3
Test-Equal 'a wait that ends well' (Get-Failure { Wait-Until 4 60 { if ($script:left--) { 'not yet' } } }) ''

function Send-Signed($Kind, $Seconds) {
	$status, $body, $retryAfter = $answers[[Math]::Min($script:tries++, $answers.Count - 1)]
	@{ Status = $status; Body = $body; RetryAfter = $retryAfter; Error = '' }
}
function Test-Token($Name, $Answers, $Want, $Tries) {
	$script:tries = 0
	$got = Get-Failure { (Get-RunnerToken 'registration-token').Token }
	Test-Equal $Name ($got -match $Want) $true
	Test-Equal "${Name}: tries" $script:tries $Tries
}
$limited = '{"code":"RateLimited","message":"m"}'
$second = [TimeSpan]::FromSeconds(1)
Test-Token 'a token' @(, @(201, $answer, $null)) '^AABF3J-x_9$' 1
$wait = @(503, $limited, $second)
Test-Token '503 twice' @($wait, $wait, @(201, $answer, $null)) '^AABF3J-x_9$' 3
Test-Token 'Retry-After too long' @(, @(503, $limited, [TimeSpan]::FromSeconds(900))) '^6 no token within' 1
$forbidden = '{"message":"Forbidden"}'
Test-Token 'Forbidden' @(, @(403, $forbidden, $null)) '^5 refused: 403 without a code: Forbidden\. Remedy: API G' 1
$rejected = '{"code":"CredentialRejected","message":"m"}'
Test-Token 'a code' @(, @(502, $rejected, $null)) '^5 refused: 502 CredentialRejected: m\. Remedy: operator' 1
Test-Token 'an empty token' @(, @(201, '{"token":""}', $null)) '^5 the answer has no token' 1

"$passed passed, $failed failed"
if ($failed) { exit 1 }
