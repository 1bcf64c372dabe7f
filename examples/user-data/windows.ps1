# EC2 user data: turns the instance into a GitHub Actions runner. For Windows Server 2019 to 2025, PowerShell 5.1 or 7.
# make user-data OS=windows fills in the settings and packs it: see docs/user-data.md.
#
#   windows.ps1                        install, register and start the runner, as an administrator
#   $token = .\windows.ps1 -TokenOnly  get a registration token, or nothing, and do nothing else
#   windows.ps1 -Remove                remove the runner if it is idle: the shutdown script
#   windows.ps1 -Watch                 turn the instance off once the runner has ended: a task of SYSTEM
#
# Log: C:\ProgramData\runner-token-broker.log. Exit status: 2 a setting, 3 no role credentials, 4 the clock, 5 refused,
# 6 no token in time, 7 the runner's package, version or folder, 8 config.cmd, the service or its tasks, 1 anything else.
param(
	# required: the stack's output ApiUrl, in quotes instead of $env:API_URL
	[string]$ApiUrl = $env:API_URL,
	# required: orgs/acme, repos/acme/widgets or enterprises/acme-corp
	[string]$Target = $env:TARGET,
	# required: the API's Region, eu-central-1
	[string]$Region = $env:REGION,
	# more labels, separated by commas
	[string]$RunnerLabels,
	# the default group if empty
	[string]$RunnerGroup,
	# nothing else on Windows: docs/user-data.md says why
	[string]$RunnerEphemeral = 'true',
	# stay: keep the instance when the runner has ended
	[string]$RunnerAfterJob = 'poweroff',
	# after so many seconds without a job it leaves, and the instance goes off. 0: never
	[string]$RunnerIdleTimeout = '0',
	# the newest if empty. GitHub gives no jobs to old ones
	[string]$RunnerVersion,
	# of the package: with RunnerVersion set too, GitHub's API is not asked
	[string]$RunnerSha256,
	# a runner that an image has here is used, unless it is configured
	[string]$RunnerDir = 'C:\actions-runner',
	# the company's CA in PEM
	[string]$RunnerCaFile,
	# seconds to go on asking for the token
	[string]$RunnerTokenTimeout = '300',
	# Other places to fetch from: mirrors, tests.
	[string]$ImdsUrl = 'http://169.254.169.254',
	[string]$ReleasesUrl = 'https://api.github.com/repos/actions/runner/releases',
	[string]$DownloadUrl = 'https://github.com/actions/runner/releases/download',
	[switch]$TokenOnly, [switch]$Remove, [switch]$Watch, [switch]$FunctionsOnly
)
Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
$unknown = "$args"
$stateDir = "$env:ProgramFiles\runner-token-broker" # what SYSTEM runs: jobs cannot write here
$stateFile = "$stateDir\settings.json"
$certificateStore = 'LocalMachine'
$proxyVariables = 'http_proxy', 'https_proxy', 'no_proxy'
$instanceId = ''
$deprecated = 'deprecated and cannot receive messages'
$tooOld = '7 GitHub has ended this version of the runner: leave RunnerVersion empty, or renew the image'

# Not Write-Host, which is in the output of powershell.exe
function Write-Log($Message) {
	if (-not $TokenOnly) {
		$now = [DateTime]::UtcNow.ToString('s')
		Add-Content "$env:ProgramData\runner-token-broker.log" "$($now)Z $Message" -ErrorAction Ignore
	}
	[Console]::Error.WriteLine("runner: $Message")
}

# --- From here to "Windows alone" all runs with pwsh anywhere.
# Windows does not tell http_proxy from HTTP_PROXY
function Get-Environment($Name) {
	foreach ($spelling in $Name, $Name.ToUpperInvariant()) {
		if ($value = [Environment]::GetEnvironmentVariable($spelling)) { return $value }
	}
}

function Get-SettingProblem {
	$url = '(https://[A-Za-z0-9.-]+|http://(127\.0\.0\.1|localhost))(:[0-9]+)?(/[A-Za-z0-9._-]+)*'
	$rules = [ordered]@{
		ApiUrl = $url, "the stack's output ApiUrl, https://..."
		Target = '(orgs|enterprises)/[a-z0-9][a-z0-9_-]*|repos/[a-z0-9][a-z0-9_-]*/(?!\.\.?\z)[a-z0-9._-]+(?<!\.git)',
			'orgs/ORG, repos/OWNER/REPOSITORY (without .git) or enterprises/ENTERPRISE, in lower case'
		Region = '[a-z]{2}(-[a-z]+)+-[0-9]+', "the API's AWS Region, such as eu-central-1"
		# ASCII: 5.1 reads a script without a byte order mark in the machine's code page.
		RunnerLabels = '|[!-~-[",%\\]]+(,[!-~-[",%\\]]+)*', 'labels separated by commas, without spaces, in ASCII'
		RunnerGroup = '[ -~-["%\\]]*', 'the name of a runner group, in ASCII'
		RunnerEphemeral = 'true', 'true: on Windows a runner has one job'
		RunnerAfterJob = 'poweroff|stay', 'poweroff or stay'
		RunnerIdleTimeout = '0|[6-9][0-9]|[1-9][0-9]{2,6}', 'a number of seconds, at least 60, or 0'
		RunnerVersion = '|[0-9]+\.[0-9]+\.[0-9]+', 'a version such as 2.999.0'
		RunnerSha256 = '|[0-9A-Fa-f]{64}', 'the 64 hexadecimal digits of the SHA-256'
		RunnerDir = '[A-Za-z]:(\\[A-Za-z0-9_.-]+)+', 'an absolute path without spaces'
		RunnerTokenTimeout = '[1-9][0-9]{0,4}', 'a number of seconds'
		ImdsUrl = 'http://[][A-Za-z0-9.:-]+', 'http://HOST'
		ReleasesUrl = $url, 'https://...'
		DownloadUrl = $url, 'https://...'
	}
	foreach ($name in $rules.Keys) {
		$pattern, $how = $rules[$name]
		$value = Get-Variable $name -ValueOnly
		$problem = if ($value) { 'malformed' } else { 'not set' }
		if ($value -cnotmatch "^($pattern)\z") { "$name is $($problem): set it to $how" }
	}
	foreach ($name in $proxyVariables) {
		$pattern, $how = '^((http://)?([!-~-[@/]]+@)?[A-Za-z0-9.-]+(:[0-9]+)?/?)?\z', 'http://HOST:PORT'
		if ($name -eq 'no_proxy') { $pattern, $how = '^[ -~]*\z', 'hosts separated by commas' }
		if ("$(Get-Environment $name)" -notmatch $pattern) { "$name is malformed: set it to $how" }
	}
	if ($RunnerCaFile -and -not (Get-Certificate)) { 'RunnerCaFile is malformed: set it to a PEM file of certificates' }
	if ($unknown) { "$unknown is unknown: remove it, or correct its name" }
}

# Those of RunnerCaFile
function Get-Certificate {
	$text = "$(Get-Content $RunnerCaFile -ErrorAction Ignore)"
	$certificates = @()
	foreach ($pem in [regex]::Matches($text, '-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END')) {
		try {
			$bytes = [Convert]::FromBase64String($pem.Groups[1].Value)
			$certificates += [Security.Cryptography.X509Certificates.X509Certificate2]::new($bytes)
		} catch { return }
	}
	$certificates
}

function Get-Seconds { [Diagnostics.Stopwatch]::GetTimestamp() / [Diagnostics.Stopwatch]::Frequency } # nobody sets it

# The comma keeps the bytes together
function Get-Hash($Algorithm, $Text) {
	, $Algorithm.ComputeHash([Text.Encoding]::UTF8.GetBytes($Text))
}

function ConvertTo-Hex([byte[]]$Bytes) { [BitConverter]::ToString($Bytes).Replace('-', '').ToLowerInvariant() }

# Signature Version 4
function Get-Authorization($Authority, $Path, $Region, $Date, $Id, $Secret, $Token) {
	$names, $headers = 'host;x-amz-date', "host:$Authority`nx-amz-date:$Date`n"
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
	$string = '"((?:[^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u[0-9A-Fa-f]{4})*)"'
	[regex]::Unescape([regex]::Match($Json, '"' + $Name + '"\s*:\s*' + $string).Groups[1].Value)
}

# What others sent, for the log.
function Get-Printable([string]$Text) {
	$Text = $Text -replace '[^ -~]+', ' '
	$Text.Substring(0, [Math]::Min(500, $Text.Length))
}

# 5.1 knows no such variables, and 7 knows them. $null: as Windows has it.
function Get-Proxy([Uri]$Url) {
	if (-not "$(Get-Environment http_proxy)$(Get-Environment https_proxy)") { return }
	$address = Get-Environment "$($Url.Scheme)_proxy"
	foreach ($entry in "$(Get-Environment no_proxy)" -split '[\s,]+') {
		$name = $entry.TrimStart('*', '.')
		if ($entry -eq '*' -or ($name -and ".$($Url.Host)".EndsWith(".$name"))) { $address = '' }
	}
	if (-not $address) { return [Net.WebProxy]::new() } # which is none
	$address = [Uri]"http://$($address -replace '^http://')"
	$proxy = [Net.WebProxy]::new("http://$($address.Authority)")
	if ($address.UserInfo) {
		$user, $password = $address.UserInfo -split ':', 2 | ForEach-Object { [Uri]::UnescapeDataString($_) }
		$proxy.Credentials = [Net.NetworkCredential]::new($user, $password)
	}
	$proxy
}

# Why there is no answer, and whether for the certificate
function Get-WebError($Exception, [string]$Url, $Seconds) {
	for ($e = $Exception; $e; $e = $e.InnerException) {
		if ($e -is [OperationCanceledException]) { return "no answer within $([int]$Seconds) s", $false }
		# 5.1 has a status, 7 a message that is never translated.
		$status = if ($e -is [Net.WebException]) { "$($e.Status)" }
		if ($status -eq 'TrustFailure' -or $e.Message -match '^The remote certificate is invalid') {
			return "the certificate of $(([Uri]$Url).Host) is not trusted. Remedy: $(Get-Remedy tls)", $true
		}
	}
	"no answer: $(Get-Printable ($Exception.GetBaseException().Message))", $false
}

# HttpClient is the same in both PowerShells, throws on no status, and adds no header that would have to be signed.
# With a Path the body goes into that file, and may take 15 minutes, but not 30 seconds without a byte.
function Send-Request($Method, [string]$Url, $Headers, $Seconds, $Path) {
	$answer = @{
		Status = 0; Body = ''; Date = $null; RetryAfter = $null; RequestId = ''
		Error = ''; Untrusted = $false; Cause = ''
	}
	$handler = [Net.Http.HttpClientHandler]::new()
	$handler.AllowAutoRedirect = [bool]$Path
	if ($Url.StartsWith($ImdsUrl)) { $handler.UseProxy = $false }
	elseif ($proxy = Get-Proxy $Url) { $handler.Proxy = $proxy }
	$client = [Net.Http.HttpClient]::new($handler)
	$client.Timeout = [TimeSpan]::FromSeconds($Seconds)
	$file = $null
	try {
		$request = [Net.Http.HttpRequestMessage]::new([Net.Http.HttpMethod]::new($Method), $Url)
		foreach ($name in $Headers.Keys) { [void]$request.Headers.TryAddWithoutValidation($name, [string]$Headers[$name]) }
		if ($Method -in 'POST', 'PUT') { $request.Content = [Net.Http.ByteArrayContent]::new([byte[]]::new(0)) } # length 0
		$until = if ($Path) { 'ResponseHeadersRead' } else { 'ResponseContentRead' }
		$response = $client.SendAsync($request, [Net.Http.HttpCompletionOption]$until).GetAwaiter().GetResult()
		if ($Path) {
			$file = [IO.File]::Create($Path)
			$copy = $response.Content.CopyToAsync($file)
			$size, $start, $since = 0, (Get-Seconds), (Get-Seconds)
			while (-not $copy.Wait(500)) {
				if ($file.Position -ne $size) { $size, $since = $file.Position, (Get-Seconds) }
				if ((Get-Seconds) - $since -gt 30 -or (Get-Seconds) - $start -gt 900) { throw 'the download stalled' }
			}
		} else { $answer.Body = $response.Content.ReadAsStringAsync().GetAwaiter().GetResult() }
		$answer.Date = $response.Headers.Date
		if ($response.Headers.RetryAfter) { $answer.RetryAfter = $response.Headers.RetryAfter.Delta }
		foreach ($name in 'x-amzn-requestid', 'apigw-requestid') {
			if ($response.Headers.Contains($name)) { $answer.RequestId = @($response.Headers.GetValues($name))[0] }
		}
		$answer.Status = [int]$response.StatusCode
	} catch { $answer.Error, $answer.Untrusted = Get-WebError $_.Exception $Url $Seconds } finally {
		$client.Dispose()
		if ($file) { $file.Dispose() }
	}
	$answer
}

function Get-Imds($Path) {
	$session = Send-Request PUT "$ImdsUrl/latest/api/token" @{ 'X-aws-ec2-metadata-token-ttl-seconds' = 60 } 5
	if ($session.Status -ne 200 -or $session.Body -notmatch '^[A-Za-z0-9+/=_-]+\z') { return $session }
	Send-Request GET "$ImdsUrl/latest/meta-data/$Path" @{ 'X-aws-ec2-metadata-token' = $session.Body } 5
}

# Or Cause and Error
function Get-RoleCredential {
	$roles = Get-Imds 'iam/security-credentials/'
	$cause, $why = 'credentials', 'the instance has no role'
	if ($roles.Error) { $cause, $why = 'imds', "no answer from the metadata service $ImdsUrl" }
	elseif ($roles.Status -eq 200 -and ($role = ($roles.Body -split "`n")[0].Trim())) {
		$json = (Get-Imds "iam/security-credentials/$role").Body
		$id, $secret, $token, $code = 'AccessKeyId', 'SecretAccessKey', 'Token', 'Code' |
			ForEach-Object { Get-Field $json $_ }
		if ($id -and $secret -and "$id$secret$token" -match '^[A-Za-z0-9/+=_-]+\z') {
			return @{ Id = $id; Secret = $secret; Token = $token; Error = '' }
		}
		$why = "no credentials of the role $(Get-Printable $role)"
		if ($code -and $code -ne 'Success') {
			$cause, $why = 'role', "$($why): $(Get-Printable "$($code): $(Get-Field $json 'Message')")"
		}
	}
	foreach ($name in 'AWS_CONTAINER_CREDENTIALS_RELATIVE_URI', 'AWS_CONTAINER_CREDENTIALS_FULL_URI',
		'AWS_ACCESS_KEY_ID') {
		if (Get-Environment $name) { throw "3 $why, and $name is set. Remedy: $(Get-Remedy elsewhere)" }
	}
	@{ Cause = $cause; Error = $why }
}

# 0: there was no answer
function Test-Retryable($Status, $Code) {
	$Status -in 0, 429, 503, 504 -or ($Status -in 500, 502 -and -not $Code)
}

# Seconds, never before Retry-After
function Get-Wait($RetryAfter, $Wait) {
	if ($null -ne $RetryAfter) { return $RetryAfter.TotalSeconds + (Get-Random -Maximum 2.0) }
	$Wait / 2 + (Get-Random -Maximum ($Wait / 2.0))
}

# A code of the service, a status of API Gateway, or a word. linux.sh says the same
function Get-Remedy($Cause) {
	$root = if ($ApiUrl -like '*://*/*') { '; ApiUrl has a path: map the domain at its root' }
	switch -Wildcard -CaseSensitive ($Cause) {
		'credentials' { return 'attach an instance profile; in a container set the hop limit of IMDSv2 to 2' }
		'imds' { return 'in a container set the hop limit of IMDSv2 to 2; on an own image mend the stale route to it' }
		'role' { return 'the role must exist, and let ec2.amazonaws.com assume it' }
		'elsewhere' { return "this script signs as an instance's role only: use the README's curl or AWS CLI" }
		'clock' { return "let w32tm reach a time server (Amazon: 169.254.169.123)" }
		'tls' { return "the company's CA is not in this machine's store: add it, or set RunnerCaFile; " +
			'for another CA Windows must reach ctldl.windowsupdate.com' }
		'InvalidRequest' { return "check Target: lower case, as GitHub has it$root" }
		'TargetNotAllowed' { return "operator: add $Target to AllowedTargets, or correct Target" }
		'TargetNotFound' { return 'check the spelling of Target; renamed? operator: can the PAT administer it?' }
		'CredentialMissing' { return 'operator: put the PAT into the secret; may the function read it (role, KMS key)?' }
		'CredentialRejected' { return 'operator: the PAT expired or was revoked, put a new one into the secret' }
		'CredentialForbidden' { return "operator: check the PAT's scope, permission, SSO and policy; " +
			"the function's log names the cause" }
		'RateLimited' { return 'wait; operator: fewer callers for one PAT' }
		'Unavailable' { return 'wait: GitHub or Secrets Manager is down' }
		'[A-Z]*' { return "operator: the README has the code, the function's log the request_id" }
		'403' { return 'API Gateway refused: allow the role execute-api:Invoke on exactly this path (caller policy); ' +
			"Region must be the API's, ApiUrl the stack's output$root" }
		'404' { return "API Gateway has no such path: ApiUrl must be the stack's output$root" }
		'429' { return "the stage's throttle: start fewer at once, or raise it" }
	}
	'check ApiUrl, the network between here and it, and the clock'
}

# Credentials and signature are new for each try
function Send-Signed($Kind, $Seconds) {
	$credential = Get-RoleCredential
	if ($credential.Error) { return $credential }
	$url = [Uri]"$ApiUrl/$Target/actions/runners/$Kind"
	$date = [DateTime]::UtcNow.ToString("yyyyMMdd'T'HHmmss'Z'", [Globalization.CultureInfo]::InvariantCulture)
	$id, $secret, $token = $credential.Id, $credential.Secret, $credential.Token
	$headers = @{
		Authorization = Get-Authorization $url.Authority $url.AbsolutePath $Region $date $id $secret $token
		'x-amz-date' = $date
	}
	if ($token) { $headers['x-amz-security-token'] = $token }
	Send-Request POST $url.AbsoluteUri $headers $Seconds
}

function Get-RunnerToken($Kind, [int]$Timeout) {
	$start, $wait = (Get-Seconds), 2
	while ($true) {
		$answer = Send-Signed $Kind ([Math]::Min(35, [Math]::Max(1, $Timeout - ((Get-Seconds) - $start))))
		$status, $after, $why = 6, $null, $answer.Error
		if ($answer.Cause) { $status, $cause = 3, $answer.Cause }
		elseif ($answer.Untrusted) { throw "5 refused: $why" }
		elseif ($why) { $cause = 'network' }
		else {
			$token, $url, $code, $message, $id = 'token', 'runner_url', 'code', 'message', 'request_id' |
				ForEach-Object { Get-Field $answer.Body $_ }
			if ($answer.Status -in 200, 201) {
				if ($token -match '^[A-Za-z0-9_-]+\z' -and $url -match '^https?://[A-Za-z0-9_.:/-]+\z') {
					return @{ Token = $token; Url = $url }
				}
				throw '5 the answer has no token: is ApiUrl the URL of this service?'
			}
			$cause = if ($code) { $code } else { "$($answer.Status)" }
			$why = "$($answer.Status) $(if ($code) { $code } else { 'without a code' }): $(Get-Printable $message)"
			if ($id -or ($id = $answer.RequestId)) { $why += " (request_id $(Get-Printable $id))" }
			$retry, $after = (Test-Retryable $answer.Status $code), $answer.RetryAfter
			if ($cause -eq '403') { # IAM may take a minute to know a new policy
				if ($null -eq $answer.Date) { throw "5 refused: $why; its Date header cannot be read" }
				$status, $retry = 5, ((Get-Seconds) - $start -lt 90)
				$off = [int]([DateTimeOffset]::UtcNow - $answer.Date).TotalSeconds
				if ([Math]::Abs($off) -gt 120) { # a signature is good for five minutes
					$status, $retry, $cause, $why = 4, $true, 'clock', "the clock is off by $off s"
				}
			}
			if (-not $retry) { throw "5 refused: $why. Remedy: $(Get-Remedy $cause)" }
		}
		$seconds = Get-Wait $after $wait
		if ((Get-Seconds) - $start + $seconds -gt $Timeout) {
			if ($after) { $why += "; it asked to wait $([int]$after.TotalSeconds) s" }
			$what = if ($status -eq 5) { 'refused' } else { "no token within RunnerTokenTimeout=$Timeout s" }
			throw "$status $($what): $why. Remedy: $(Get-Remedy $cause)"
		}
		Write-Log "no token yet: $why; next try in $([Math]::Round($seconds, 1)) s"
		Start-Sleep -Milliseconds (1000 * $seconds)
		$wait = [Math]::Min($wait * 2, 20)
	}
}

# $Problem says what may pass, and throws what cannot
function Wait-Until($Status, $Seconds, $Problem) {
	$start = Get-Seconds
	while ($why = & $Problem) {
		if ((Get-Seconds) - $start -ge $Seconds) { throw "$Status $why (after $Seconds s)" }
		Write-Log "$why; waiting"
		Start-Sleep -Milliseconds 5000
	}
}

# --- Windows alone
function Get-FetchProblem($Answer, $Url) {
	if ($Answer.Status -eq 200) { return }
	if ($Answer.Untrusted) { throw "7 $($Answer.Error)" }
	if ($Answer.Status -eq 404) { throw "7 there is no $($Url): check RunnerVersion" }
	"no runner from $($Url): $($Answer.Status) $($Answer.Error) " +
		'(if GitHub limits this address, set RunnerVersion and RunnerSha256)'
}

function Save-Package($Zip) {
	$wrong = @{ Times = 0 }
	Wait-Until 7 120 {
		$version, $sum = $RunnerVersion, $RunnerSha256
		if (-not ($version -and $sum)) {
			$url = "$ReleasesUrl/$(if ($version) { "tags/v$version" } else { 'latest' })"
			$release = Send-Request GET $url @{ 'User-Agent' = 'runner-token-broker' } 30
			if ($why = Get-FetchProblem $release $url) { return $why }
			$version = (Get-Field $release.Body 'tag_name').TrimStart('v')
			if (-not $sum) { $sum = [regex]::Match($release.Body, 'BEGIN SHA win-x64 -->([0-9a-f]{64})<').Groups[1].Value }
			if ($version -notmatch '^[0-9.]+\z' -or -not $sum) {
				throw "7 no release with a checksum from $($ReleasesUrl): set RunnerVersion and RunnerSha256"
			}
		}
		$package = "actions-runner-win-x64-$version.zip"
		$url = "$DownloadUrl/v$version/$package"
		if ($why = Get-FetchProblem (Send-Request GET $url @{} 30 $Zip) $url) { return $why }
		if ((Get-FileHash $Zip).Hash -ne $sum) {
			$why = "the checksum of $package is wrong: the package is not used"
			if ($wrong.Times++) { throw "7 $why" }
			$why
		}
	}
}

# RunnerDir is complete, or is not there
function Install-Runner {
	if (Test-Path "$RunnerDir\config.cmd") { return Write-Log "the runner that is in $RunnerDir is used" }
	if (Test-Path "$RunnerDir\*") { throw "7 $RunnerDir is not empty: empty it, or set RunnerDir" }
	$zip = (New-Item -ItemType File -Force "$RunnerDir.zip").FullName
	try {
		Save-Package $zip
		Wait-Until 7 60 { # a virus scanner may hold a file
			try {
				Remove-Item "$RunnerDir.new" -Recurse -Force -ErrorAction Ignore
				$folder = (New-Item -ItemType Directory "$RunnerDir.new").FullName
				[IO.Compression.ZipFile]::ExtractToDirectory($zip, $folder)
				Remove-Item $RunnerDir -ErrorAction Ignore # it is empty
				Rename-Item "$RunnerDir.new" ($RunnerDir -replace '.*\\')
			} catch { "the package cannot be unpacked: $($_.Exception.GetBaseException().Message)" }
		}
	} finally { Remove-Item $zip -ErrorAction Ignore }
}

# Jobs may change what is in RunnerDir, so SYSTEM removes the runner with a copy of the program.
function Copy-Program {
	if (-not (Test-Path "$stateDir\runner\config.cmd")) {
		Remove-Item "$stateDir\runner" -Recurse -Force -ErrorAction Ignore
		$null = New-Item -ItemType Directory "$stateDir\runner"
		Copy-Item "$RunnerDir\bin" "$stateDir\runner" -Recurse
		Copy-Item "$RunnerDir\config.cmd" "$stateDir\runner" # last: the copy is complete
	}
	if ($PSCommandPath -ne "$stateDir\windows.ps1") { Copy-Item $PSCommandPath "$stateDir\windows.ps1" }
}

# The runner reads .env: for config.cmd, the service and jobs
function Set-Environment {
	$lines = @(Get-Content "$RunnerDir\.env" -ErrorAction Ignore)
	foreach ($name in $proxyVariables) {
		if ($value = Get-Environment $name) { $lines += "$name=$value" }
	}
	foreach ($variable in Get-ChildItem env:ACTIONS_RUNNER_*) { $lines += "$($variable.Name)=$($variable.Value)" }
	if ($RunnerCaFile) {
		$store = [Security.Cryptography.X509Certificates.X509Store]::new('Root', $certificateStore)
		$store.Open('ReadWrite')
		foreach ($certificate in Get-Certificate) { $store.Add($certificate) }
		$store.Close()
		Copy-Item $RunnerCaFile "$stateDir\ca.pem"
		$lines += "NODE_EXTRA_CA_CERTS=$stateDir\ca.pem"
	}
	# Windows's service host does not know the exit code 7: it starts such a listener again, for ever.
	$not = '^ACTIONS_RUNNER_(INPUT_|RETURN_VERSION_DEPRECATED_EXIT_CODE)'
	Set-Content "$RunnerDir\.env" ($lines -notmatch $not | Select-Object -Unique)
}

# The token is in the environment of config.cmd alone. The service gets its environment from the service manager.
function Invoke-Config($Folder, $Token, $Arguments) {
	$start = [Diagnostics.ProcessStartInfo]::new($env:ComSpec, "/d /c .\config.cmd $Arguments 2>&1")
	$start.WorkingDirectory = Convert-Path $Folder
	$start.UseShellExecute = $false
	$start.RedirectStandardOutput = $true
	$start.StandardOutputEncoding = [Text.Encoding]::UTF8
	$start.EnvironmentVariables['ACTIONS_RUNNER_INPUT_TOKEN'] = $Token
	$process = [Diagnostics.Process]::Start($start)
	$end = (Get-Seconds) + 600
	$old = $false
	while ($true) {
		$line = $process.StandardOutput.ReadLineAsync()
		while (-not $line.Wait(500)) {
			if ((Get-Seconds) -gt $end) {
				$null = taskkill.exe /T /F /PID $process.Id
				throw '8 config.cmd did not end within 600 s'
			}
		}
		if ($null -eq $line.Result) { break }
		Write-Log $line.Result
		if ($line.Result -match "minimum runner version|$deprecated") { $old = $true }
	}
	$process.WaitForExit()
	if ($old) { throw $tooOld }
	if ($process.ExitCode) { throw "8 config.cmd failed with $($process.ExitCode): see above, and $RunnerDir\_diag" }
}

# Windows waits ten minutes for a shutdown script of the local group policy, with the network still up. A task on the
# shutdown event would race with the shutdown.
function Register-ShutdownScript($PowerShell, $Call) {
	$policy = "$env:SystemRoot\System32\GroupPolicy"
	$ini = "$policy\Machine\Scripts\scripts.ini"
	$old = "$(Get-Content "$policy\gpt.ini", $ini -ErrorAction Ignore)"
	if ($old -and $old -notlike "*$stateDir*") {
		return Write-Log "this machine has a local policy: add a shutdown script to it, powershell $Call -Remove"
	}
	$null = New-Item -ItemType Directory -Force "$policy\Machine\Scripts"
	Set-Content $ini '[Shutdown]', "0CmdLine=$PowerShell", "0Parameters=$Call -Remove"
	Set-Content "$policy\gpt.ini" '[General]', 'Version=1',
		'gPCMachineExtensionNames=[{42B5FAAE-6536-11D2-AE5A-0000F87571E3}{40B6664F-4972-11D1-A7CA-0000F87571E3}]'
	$said = 'n' | gpupdate.exe /target:computer /force # n: no restart if another policy wants one
	if ($LASTEXITCODE) { throw "8 gpupdate failed with $($LASTEXITCODE): $said" }
}

function Register-Watch($PowerShell, $Call) {
	$task = @{
		Action = New-ScheduledTaskAction -Execute $PowerShell -Argument "$Call -Watch"
		Trigger = New-ScheduledTaskTrigger -AtStartup
		Principal = New-ScheduledTaskPrincipal -UserId 'S-1-5-18' -LogonType ServiceAccount # SYSTEM
		Settings = New-ScheduledTaskSettingsSet -ExecutionTimeLimit ([TimeSpan]::Zero) -AllowStartIfOnBatteries
	}
	$null = Register-ScheduledTask -TaskName 'runner-token-broker' -Force @task
}

# For -Remove and -Watch. That it is there says that config.cmd was called
function Save-State {
	$state = @{}
	foreach ($name in 'ApiUrl', 'Target', 'Region', 'RunnerDir', 'RunnerAfterJob', 'RunnerIdleTimeout', 'ImdsUrl',
		'instanceId') {
		$state[$name] = Get-Variable $name -ValueOnly
	}
	foreach ($name in $proxyVariables) { $state["env:$name"] = "$(Get-Environment $name)" }
	Set-Content $stateFile (ConvertTo-Json $state)
}

function Get-State { Get-Content $stateFile | Out-String | ConvertFrom-Json }

# Into its caller's variables
function Read-State {
	if (-not (Test-Path $stateFile)) { return $false }
	foreach ($setting in (Get-State).PSObject.Properties) {
		if ($setting.Name -like 'env:*') { Set-Item $setting.Name $setting.Value }
		else { Set-Variable $setting.Name $setting.Value -Scope 1 }
	}
	$true
}

# By its name, not by RunnerDir\.service: jobs can write there. An image has no other one.
function Get-RunnerService { Get-Service 'actions.runner.*' -ErrorAction Ignore | Select-Object -First 1 }
function Test-Running { @(Get-RunnerService | Where-Object Status -NE 'Stopped').Count -gt 0 }

function Remove-Service { if ($service = Get-RunnerService) { $null = sc.exe delete $service.Name } }

function Clear-Registration {
	foreach ($name in '.runner', '.credentials', '.credentials_rsaparams', '.service') {
		Remove-Item "$RunnerDir\$name" -Force -ErrorAction Ignore
	}
}

# GitHub refuses while a job runs. After its job the listener has deleted .runner, and GitHub has forgotten it.
function Remove-Runner([int]$Timeout) {
	if (-not (Test-Path "$RunnerDir\.runner")) { return Write-Log 'no runner is registered here' }
	Copy-Item "$RunnerDir\.runner", "$RunnerDir\.credentials" "$stateDir\runner" -Force -ErrorAction Ignore
	Invoke-Config "$stateDir\runner" (Get-RunnerToken 'remove-token' $Timeout).Token 'remove'
	Remove-Service
	Clear-Registration
	Write-Log 'the runner is removed'
}

# The newest has what the listener prints
function Get-ListenerLog {
	$file = Get-ChildItem "$RunnerDir\_diag\Runner_*.log" -ErrorAction Ignore | Sort-Object Name | Select-Object -Last 1
	if ($file) { "$(Get-Content $file.FullName -ErrorAction Ignore)" }
}

function Wait-Listener {
	$end, $looks = ((Get-Seconds) + 120), 0
	while ($looks -lt 3) { # for ten seconds: one whose version has ended listens at first
		$said = Get-ListenerLog
		if ($said -match $deprecated) { throw $tooOld }
		if ($said -match 'Running job: ') { return }
		if ($said -match 'Listening for Jobs') { $looks++ }
		if (-not (Test-Running)) { throw "8 the runner's service has stopped: see $RunnerDir\_diag" }
		if ((Get-Seconds) -gt $end) {
			throw "8 the runner is not connected after 120 s, and goes on trying: see $RunnerDir\_diag"
		}
		Start-Sleep -Milliseconds 5000
	}
}

function Register-Runner {
	$answer = Get-RunnerToken 'registration-token' $RunnerTokenTimeout # last: it is good for an hour at most
	Save-State
	$arguments = "--unattended --replace --runasservice --url $($answer.Url) --name $instanceId --ephemeral"
	if ($RunnerLabels) { $arguments += " --labels `"$RunnerLabels`"" }
	if ($RunnerGroup) { $arguments += " --runnergroup `"$RunnerGroup`"" }
	try {
		# The service runs as NT AUTHORITY\NETWORK SERVICE, config.cmd's default: no administrator, no password.
		Invoke-Config $RunnerDir $answer.Token $arguments
		Wait-Listener
	} catch {
		$failure = $_.Exception.Message
		if (Test-Running) { Start-ScheduledTask -TaskName 'runner-token-broker' }
		else {
			try {
				Remove-Runner 60
				Remove-Item $stateFile
			} catch {
				Write-Log "$($_.Exception.Message)"
				Write-Log 'the registration stays: remove it at GitHub, or run this again'
			}
		}
		throw $failure
	}
	Start-ScheduledTask -TaskName 'runner-token-broker'
}

function Start-Runner {
	if (-not (@(whoami.exe /groups) -match 'S-1-16-(12288|16384)')) { throw '2 run this as administrator' }
	if (-not $PSCommandPath) { throw '2 run this from a file that stays' }
	$imds = @{}
	Wait-Until 3 60 {
		$imds.Id = (Get-Imds 'instance-id').Body
		if ($imds.Id -notmatch '^i-[0-9a-f]+\z') { "no instance id from $ImdsUrl" }
	}
	$instanceId = $imds.Id
	$registered = Test-Path "$RunnerDir\.runner"
	if (Test-Path $stateFile) {
		if ((Get-State).instanceId -ne $instanceId) {
			Write-Log 'the registration that is here is of the instance which this image was made of'
			Remove-Service
		}
		if (Get-RunnerService) {
			if ($registered) { return Write-Log 'the runner is registered already' }
			throw "7 a job has used $($RunnerDir): launch a new instance"
		}
		Clear-Registration # config.cmd was interrupted. It replaces what it registered
	} elseif ($registered) { throw "7 $RunnerDir holds a runner that is configured: remove that, or set RunnerDir" }
	Install-Runner
	Copy-Program
	Set-Environment
	$powerShell = "$env:SystemRoot\System32\WindowsPowerShell\v1.0\powershell.exe"
	$call = "-NoProfile -ExecutionPolicy Bypass -File `"$stateDir\windows.ps1`""
	Register-ShutdownScript $powerShell $call
	Register-Watch $powerShell $call
	Register-Runner
	Write-Log 'the runner is registered and its service started'
}

function Watch-Runner {
	$start, $up, $job = (Get-Seconds), 0, $false
	while ($true) {
		Start-Sleep -Milliseconds 5000
		$now = Get-Seconds
		if (Get-Process Runner.Worker -ErrorAction Ignore) { $job = $true }
		if (Test-Running) {
			$up = $now
			if ($RunnerIdleTimeout -eq '0' -or $job -or $now - $start -lt $RunnerIdleTimeout) { continue }
			Write-Log "no job within RunnerIdleTimeout=$RunnerIdleTimeout s"
			try { Remove-Runner 20 } catch {
				Write-Log "the runner cannot be removed, so it goes on: $($_.Exception.Message)"
				$start = $now - $RunnerIdleTimeout + 60
				continue
			}
		} else {
			# After an update Windows starts the service again within a minute, and at boot after some minutes.
			if ($(if ($up) { $now - $up -lt 90 } else { $now - $start -lt 600 })) { continue }
			$said = Get-ListenerLog
			if ($said -match $deprecated) { Write-Log $tooOld.Substring(2) }
			elseif ($said -match 'completed with result: (\w+)') { Write-Log "the runner has had its job: $($Matches[1])" }
			else { Write-Log "the runner's service has ended without a job: see $RunnerDir\_diag" }
			if ($RunnerAfterJob -eq 'stay') { return }
		}
		Write-Log 'the instance goes off'
		$null = shutdown.exe /s /f /t 0
		if ($LASTEXITCODE) { throw "8 shutdown failed with $LASTEXITCODE" }
		return
	}
}

function Invoke-Script {
	$script:status = 1
	try {
		if ($ExecutionContext.SessionState.LanguageMode -ne 'FullLanguage') {
			throw '1 PowerShell may not run all of this: allow the script in AppLocker or WDAC'
		}
		Add-Type -AssemblyName 'System.Net.Http', 'System.IO.Compression.FileSystem'
		if ([Net.ServicePointManager]::SecurityProtocol -ne 0) { # 0: as Windows has it
			[Net.ServicePointManager]::SecurityProtocol = [Net.ServicePointManager]::SecurityProtocol -bor 3072 # TLS 1.2
		}
		if (($Remove -or $Watch) -and -not (Read-State)) { Write-Log 'no runner is registered here' }
		else {
			$ApiUrl = $ApiUrl -replace '/\z'
			if ($problems = @(Get-SettingProblem)) { throw "2 $($problems -join '; ')" }
			if ($TokenOnly) { (Get-RunnerToken 'registration-token' $RunnerTokenTimeout).Token }
			elseif ($Remove) { Remove-Runner 20 }
			elseif ($Watch) { Watch-Runner }
			else { Start-Runner }
		}
		$script:status = 0
	} catch {
		$message = $_.Exception.Message
		if ($message -match '(?s)^([1-8]) (.*)') { $script:status, $message = [int]$Matches[1], $Matches[2] }
		Write-Log $message
	}
}

if ($FunctionsOnly) { return } # for the tests; EC2Launch dot-sources too
Invoke-Script
exit $status
