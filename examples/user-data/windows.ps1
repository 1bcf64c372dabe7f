# EC2 user data: turns the instance into a GitHub Actions runner. For Windows Server 2019 to 2025, PowerShell 5.1 or 7.
# Set the first three. Put the tag powershell (in angle brackets) on a line before the script and its closing tag after
# it (not in here: EC2Launch would take it). Copy that into a launch template. Attach the caller policy (output
# CallerPolicyArn) to the role. EC2 takes 16,384 bytes.
#
#   windows.ps1                        install, register and start the runner, as an administrator
#   $token = .\windows.ps1 -TokenOnly  get a registration token, or $null, and do nothing else
#   windows.ps1 -Remove                remove the runner, as the shutdown script does
#
# Log: C:\ProgramData\runner-token-broker.log. Exit status: 2 a setting, 3 no role credentials, 4 the clock, 5 refused,
# 6 no token in time, 7 the runner's package, 8 config.cmd or the shutdown script, 1 anything else.
param(
	[string]$ApiUrl = $env:API_URL, # required: the stack's output ApiUrl, in quotes instead of $env:API_URL
	[string]$Target = $env:TARGET,  # required: orgs/acme, repos/acme/widgets or enterprises/acme-corp
	[string]$Region = $env:REGION,  # required: the API's region, eu-central-1

	[string]$RunnerLabels,             # more labels, separated by commas
	[string]$RunnerGroup,              # the default group if empty
	[string]$RunnerEphemeral = 'true', # false: leaves when the instance stops or reboots; first read docs/user-data.md
	[string]$RunnerVersion,            # 2.330.0; the newest if empty. GitHub gives no jobs to old ones
	[string]$RunnerSha256,             # of the package: with RunnerVersion set too, GitHub's API is not asked
	[string]$RunnerDir = 'C:\actions-runner',
	[int]$RunnerTokenTimeout = 300, # seconds to go on asking for the token, and the most for each wait before
	[string]$ImdsUrl = 'http://169.254.169.254',
	[switch]$TokenOnly, [switch]$Remove, [switch]$FunctionsOnly
)
Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue' # the bar takes longer than the download

function Write-Log($Message) { # not Write-Host, which is in the output of powershell.exe
	[Console]::Error.WriteLine("runner: $Message")
	if ($TokenOnly) { return }
	$now = [DateTime]::UtcNow.ToString('s')
	Add-Content "$env:ProgramData\runner-token-broker.log" "${now}Z $Message" -ErrorAction Ignore
}

function Get-SettingProblem {
	$rules = [ordered]@{
		ApiUrl = 'https://[\w./:-]+|http://(127\.0\.0\.1|localhost)(:\d+)?', "the stack's output ApiUrl, https://..."
		Target = '(orgs|enterprises)/[a-z0-9][a-z0-9_-]*|repos/[a-z0-9][a-z0-9_-]*/(?!\.\.?\z)[a-z0-9._-]+',
			'orgs/ORG, repos/OWNER/REPOSITORY or enterprises/ENTERPRISE, in lower case'
		Region = '[a-z]{2}(-[a-z]+)+-\d+', "the API's AWS region, such as eu-central-1"
		RunnerLabels = '[^\s"%\\]*', 'labels separated by commas, without spaces'
		RunnerGroup = '[^"%\\]*', 'a name without " % \'
		RunnerVersion = '([\d.]+)?', 'a version such as 2.330.0'
		RunnerEphemeral = 'true|false', 'true or false'
		RunnerDir = '[A-Za-z]:(\\[\w.-]+)+', 'an absolute path without spaces'
	}
	foreach ($name in $rules.Keys) {
		$pattern, $how = $rules[$name]
		$value = Get-Variable $name -ValueOnly
		if ($value -cnotmatch "^($pattern)\z") { "$name is $(if ($value) { 'malformed' } else { 'not set' }): set it to $how" }
	}
}

# From here to "Windows alone" all runs with pwsh anywhere, for windows.tests.ps1.
function Get-Hash($Algorithm, $Text) { # the comma keeps the bytes together
	, $Algorithm.ComputeHash([Text.Encoding]::UTF8.GetBytes($Text))
}
function ConvertTo-Hex([byte[]]$Bytes) { [BitConverter]::ToString($Bytes).Replace('-', '').ToLowerInvariant() }
function Get-Authorization($Authority, $Path, $Region, $Date, $Id, $Secret, $Token) {
	$names = 'host;x-amz-date'
	$headers = "host:$Authority`nx-amz-date:$Date`n"
	if ($Token) {
		$names += ';x-amz-security-token'
		$headers += "x-amz-security-token:$Token`n"
	}
	$sha = [Security.Cryptography.SHA256]::Create()
	$request = "POST`n$Path`n`n$headers`n$names`n$(ConvertTo-Hex (Get-Hash $sha ''))"
	$scope = "$($Date.Substring(0, 8))/$Region/execute-api/aws4_request"
	$key = [Text.Encoding]::UTF8.GetBytes("AWS4$Secret")
	foreach ($part in $scope.Split('/') + "AWS4-HMAC-SHA256`n$Date`n$scope`n$(ConvertTo-Hex (Get-Hash $sha $request))") {
		$key = Get-Hash ([Security.Cryptography.HMACSHA256]::new($key)) $part
	}
	"AWS4-HMAC-SHA256 Credential=$Id/$scope, SignedHeaders=$names, Signature=$(ConvertTo-Hex $key)"
}

# Not ConvertFrom-Json: its errors quote its input, and so may the event log.
function Get-Field($Json, $Name) {
	[regex]::Match($Json, '"' + $Name + '"\s*:\s*"((?:[^"\\]|\\.)*)"').Groups[1].Value
}

# HttpClient is the same in both PowerShells, throws on no status, and adds no header that would have to be signed.
function Send-Request($Method, [string]$Url, $Headers, $Seconds) {
	$answer = @{ Status = 0; Body = ''; Date = $null; RetryAfter = $null; Error = '' }
	$handler = [Net.Http.HttpClientHandler]::new()
	$handler.AllowAutoRedirect = $false
	$handler.UseProxy = -not $Url.StartsWith($ImdsUrl)
	$client = [Net.Http.HttpClient]::new($handler)
	$client.Timeout = [TimeSpan]::FromSeconds($Seconds)
	try {
		$request = [Net.Http.HttpRequestMessage]::new([Net.Http.HttpMethod]::new($Method), $Url)
		foreach ($name in $Headers.Keys) { [void]$request.Headers.TryAddWithoutValidation($name, [string]$Headers[$name]) }
		if ($Method -in 'POST', 'PUT') { $request.Content = [Net.Http.ByteArrayContent]::new([byte[]]::new(0)) } # length 0
		$response = $client.SendAsync($request).GetAwaiter().GetResult()
		$answer.Body = $response.Content.ReadAsStringAsync().GetAwaiter().GetResult()
		$answer.Date = $response.Headers.Date
		if ($response.Headers.RetryAfter) { $answer.RetryAfter = $response.Headers.RetryAfter.Delta }
		$answer.Status = [int]$response.StatusCode
	} catch { $answer.Error = "no answer: $($_.Exception.GetBaseException().Message)" } finally { $client.Dispose() }
	$answer
}

function Get-Imds($Path) {
	$session = Send-Request PUT "$ImdsUrl/latest/api/token" @{ 'X-aws-ec2-metadata-token-ttl-seconds' = 60 } 5
	if ($session.Status -ne 200) { return '' }
	$answer = Send-Request GET "$ImdsUrl/latest/meta-data/$Path" @{ 'X-aws-ec2-metadata-token' = $session.Body } 5
	if ($answer.Status -eq 200) { $answer.Body } else { '' }
}

function Get-RoleCredential { # IMDS's JSON
	$role = ((Get-Imds 'iam/security-credentials/') -split "`n")[0].Trim()
	if ($role) {
		$json = Get-Imds "iam/security-credentials/$role"
		if ((Get-Field $json 'AccessKeyId') -and (Get-Field $json 'SecretAccessKey')) { $json }
	}
}

function Get-ClockProblem { # a signature is good for five minutes
	$date = (Send-Request HEAD $ApiUrl @{} 10).Date
	if ($null -eq $date) { return } # unknown: the signed request will tell
	$off = [Math]::Round(([DateTimeOffset]::UtcNow - $date).TotalSeconds)
	if ([Math]::Abs($off) -gt 120) { "the clock is off by $off s: see w32tm /query /status; Amazon's is 169.254.169.123" }
}

function Wait-Until($Status, $Seconds, $Problem) { # $Problem says what is wrong, or nothing
	$watch = [Diagnostics.Stopwatch]::StartNew()
	while ($why = & $Problem) {
		if ($watch.Elapsed.TotalSeconds -ge $Seconds) { throw "$Status $why (after $Seconds s)" }
		Write-Log "$why; waiting"
		Start-Sleep 5
	}
}

function Test-Retryable($Status, $Code) { # 0: there was no answer
	$Status -in 0, 429, 503, 504 -or ($Status -in 500, 502 -and -not $Code)
}

function Get-Wait($RetryAfter, $Wait) { # milliseconds, never before Retry-After
	if ($null -ne $RetryAfter) { return $RetryAfter.TotalMilliseconds + (Get-Random -Maximum 2001) }
	($Wait + (Get-Random -Maximum ($Wait + 1))) / 2
}

function Get-Remedy($Status, $Code) {
	$key = if ($Code) { $Code } else { "$Status" }
	switch -Wildcard ($key) {
		'InvalidRequest' { return 'Target in lower case, as GitHub has it' }
		'TargetNotAllowed' { return 'operator: add it to AllowedTargets' }
		'TargetNotFound' { return 'misspelt or renamed? Operator: can the PAT administer it?' }
		'CredentialMissing' { return 'operator: put the PAT into the secret, let the function read it' }
		'CredentialRejected' { return 'operator: put a new PAT into the secret' }
		'RateLimited' { return 'fewer callers, or another PAT owner' }
		'[A-Z]*' { return "operator: see the function's log" }
		'403' { return 'API Gateway refused, not the service: caller policy for exactly this path? Region? clock?' }
		'404' { return "API Gateway has no such path: set ApiUrl to the stack's output" }
		'429' { return 'start fewer at once, or raise the throttle of the stage' }
	}
	'check ApiUrl and the network'
}

function Send-Signed($Kind, $Seconds) { # credentials and signature are new for each try
	$json = Get-RoleCredential
	if (-not $json) { return @{ Status = 0; Body = ''; RetryAfter = $null; Error = 'no role credentials' } }
	$id, $secret, $session = 'AccessKeyId', 'SecretAccessKey', 'Token' | ForEach-Object { Get-Field $json $_ }
	$url = [Uri]"$($ApiUrl.TrimEnd('/'))/$Target/actions/runners/$Kind"
	$date = [DateTime]::UtcNow.ToString("yyyyMMdd'T'HHmmss'Z'", [Globalization.CultureInfo]::InvariantCulture)
	$headers = @{
		Authorization = Get-Authorization $url.Authority $url.AbsolutePath $Region $date $id $secret $session
		'x-amz-date' = $date
	}
	if ($session) { $headers['x-amz-security-token'] = $session }
	Send-Request POST $url.AbsoluteUri $headers $Seconds
}

function Get-RunnerToken($Kind) {
	$watch = [Diagnostics.Stopwatch]::StartNew()
	$wait = 2000
	while ($true) {
		$answer = Send-Signed $Kind ([Math]::Min(35, [Math]::Max(1, $RunnerTokenTimeout - $watch.Elapsed.TotalSeconds)))
		$token, $url, $code, $message = 'token', 'runner_url', 'code', 'message' | ForEach-Object { Get-Field $answer.Body $_ }
		if ($answer.Status -in 200, 201) {
			if ($token -match '^[\w-]+\z' -and $url -match '^https?://[\w.:/-]+\z') { return @{ Token = $token; Url = $url } }
			throw '5 the answer has no token: is ApiUrl the URL of this service?'
		}
		$why = "$($answer.Status) $(if ($code) { $code } else { 'without a code' }): $message"
		if ($answer.Error) { $why = $answer.Error }
		$why += ". Remedy: $(Get-Remedy $answer.Status $code)"
		if (-not (Test-Retryable $answer.Status $code)) { throw "5 refused: $why" }
		$ms = Get-Wait $answer.RetryAfter $wait
		if ($watch.Elapsed.TotalMilliseconds + $ms -gt 1000 * $RunnerTokenTimeout) {
			throw "6 no token within RunnerTokenTimeout=$RunnerTokenTimeout s: $why"
		}
		Write-Log "no token yet: $why; next try in $([int]$ms) ms"
		Start-Sleep -Milliseconds $ms
		$wait = [Math]::Min($wait * 2, 20000)
	}
}

# Windows alone
function Install-Runner {
	if (Test-Path "$RunnerDir\*") { throw "7 $RunnerDir is not empty: remove what is in it, or set RunnerDir" }
	$zip = "$RunnerDir.zip"
	try {
		Wait-Until 7 120 {
			try {
				$version, $sum = $RunnerVersion, $RunnerSha256
				if (-not ($version -and $sum)) {
					$which = if ($version) { "tags/v$version" } else { 'latest' }
					$release = Invoke-RestMethod "https://api.github.com/repos/actions/runner/releases/$which" -TimeoutSec 60
					$version = $release.tag_name.TrimStart('v')
				}
				$package = "actions-runner-win-x64-$version.zip"
				if (-not $sum) { $sum = ($release.assets | Where-Object name -EQ $package).digest -replace '^sha256:' }
				$url = "https://github.com/actions/runner/releases/download/v$version/$package"
				Invoke-WebRequest $url -UseBasicParsing -TimeoutSec 60 -OutFile $zip
				if ((Get-FileHash $zip).Hash -ne $sum) { "the checksum of runner $version is wrong: nothing of it was used" }
			} catch { "no runner: $($_.Exception.Message) (if GitHub limits this address, set RunnerVersion and RunnerSha256)" }
		}
		Add-Type -AssemblyName System.IO.Compression.FileSystem
		[IO.Compression.ZipFile]::ExtractToDirectory($zip, $RunnerDir)
	} finally { Remove-Item $zip -ErrorAction SilentlyContinue }
}

# The token is in the environment of config.cmd alone, not of this process. The service that config.cmd starts gets its
# environment from the service manager, and so does a job.
function Invoke-Config($Token, $Arguments) {
	$start = [Diagnostics.ProcessStartInfo]::new($env:ComSpec, "/d /c $RunnerDir\config.cmd $Arguments 2>&1")
	$start.UseShellExecute = $false
	$start.RedirectStandardOutput = $true
	$start.EnvironmentVariables['ACTIONS_RUNNER_INPUT_TOKEN'] = $Token
	$process = [Diagnostics.Process]::Start($start)
	while ($null -ne ($line = $process.StandardOutput.ReadLine())) { Write-Log $line }
	$process.WaitForExit()
	if ($process.ExitCode) { throw "8 config.cmd failed with $($process.ExitCode): see above, and $RunnerDir\_diag" }
}

# The service runs as NT AUTHORITY\NETWORK SERVICE, config.cmd's default: no administrator, no password.
function Register-Runner {
	$name = Get-Imds 'instance-id'
	if ($name -notmatch '^[\w-]+\z') { throw "3 no instance id from $ImdsUrl" }
	$answer = Get-RunnerToken 'registration-token' # last: it is good for an hour at most
	$arguments = "--unattended --replace --runasservice --url $($answer.Url) --name $name"
	if ($RunnerEphemeral -eq 'true') { $arguments += ' --ephemeral' }
	if ($RunnerLabels) { $arguments += " --labels `"$RunnerLabels`"" }
	if ($RunnerGroup) { $arguments += " --runnergroup `"$RunnerGroup`"" }
	Invoke-Config $answer.Token $arguments # also starts the service, and fails if it does not run
}

# A shutdown script of the local group policy: Windows waits for it, ten minutes by default, with the network still up.
# A task on the shutdown event would race with the shutdown.
function Register-ShutdownScript {
	$dir = "$env:ProgramFiles\runner-token-broker" # SYSTEM runs what is in it, so not where everybody may write
	$system = "$env:SystemRoot\System32"
	$policy = "$system\GroupPolicy"
	$ini = "$policy\Machine\Scripts\scripts.ini"
	$call = "-NoProfile -ExecutionPolicy Bypass -File `"$dir\windows.ps1`" -Remove -ApiUrl $ApiUrl -Target $Target " +
		"-Region $Region -RunnerDir $RunnerDir -RunnerTokenTimeout 20"
	$old = "$(Get-Content "$policy\gpt.ini", $ini -ErrorAction Ignore)"
	$null = New-Item -ItemType Directory -Force $dir, "$policy\Machine\Scripts"
	Copy-Item $PSCommandPath "$dir\windows.ps1"
	if ($old -and $old -notlike "*$dir*") {
		throw "8 the runner will not leave: this machine has a local policy, add to it: powershell $call"
	}
	Set-Content $ini '[Shutdown]', "0CmdLine=$system\WindowsPowerShell\v1.0\powershell.exe", "0Parameters=$call"
	Set-Content "$policy\gpt.ini" '[General]', 'Version=1',
		'gPCMachineExtensionNames=[{42B5FAAE-6536-11D2-AE5A-0000F87571E3}{40B6664F-4972-11D1-A7CA-0000F87571E3}]'
	Write-Log "$('n' | gpupdate.exe /target:computer /force)" # n: no restart if another policy wants one
}

if ($FunctionsOnly) { return } # for the tests; EC2Launch dot-sources too
[Net.ServicePointManager]::SecurityProtocol = [Net.ServicePointManager]::SecurityProtocol -bor 3072 # TLS 1.2
Add-Type -AssemblyName System.Net.Http
$status = 1
try {
	$problems = @(Get-SettingProblem)
	if ($problems) { throw "2 $($problems -join '; ')" }
	Wait-Until 4 ([Math]::Min(120, $RunnerTokenTimeout)) { Get-ClockProblem }
	Wait-Until 3 ([Math]::Min(200, $RunnerTokenTimeout)) {
		if (-not (Get-RoleCredential)) { "no role credentials from ${ImdsUrl}: attach an instance profile" }
	}
	if ($TokenOnly) { (Get-RunnerToken 'registration-token').Token }
	elseif ($Remove) {
		if ([IO.File]::Exists("$RunnerDir\.runner")) { Invoke-Config (Get-RunnerToken 'remove-token').Token 'remove' }
	} else {
		Install-Runner
		Register-Runner
		if ($RunnerEphemeral -eq 'false') { Register-ShutdownScript }
		Write-Log 'the runner is registered and its service started'
	}
	$status = 0
} catch {
	$message = $_.Exception.Message
	if ($message -match '(?s)^([2-8]) (.*)') { $status, $message = [int]$Matches[1], $Matches[2] }
	Write-Log $message
}
exit $status
