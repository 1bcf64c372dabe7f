# Tests windows.ps1 without network, clock or Windows: Invoke-Pester examples/user-data/windows.tests.ps1
# It needs PowerShell 5.1 or 7 and Pester 5 or 6. botocore made testdata/sigv4.json.
BeforeDiscovery {
	$vectors = Get-Content -Raw "$PSScriptRoot/testdata/sigv4.json" | ConvertFrom-Json | ForEach-Object {
		@{ Name = $_.name; V = $_ }
	}
}

BeforeAll {
	Add-Type -AssemblyName System.Net.Http
	$good = @{ ApiUrl = 'https://a1.execute-api.eu-central-1.amazonaws.com'; Target = 'orgs/acme'
		Region = 'eu-central-1' }
	. "$PSScriptRoot/windows.ps1" -FunctionsOnly @good

	# What only Windows has. Each test says what it does.
	foreach ($name in 'whoami.exe', 'gpupdate.exe', 'sc.exe', 'shutdown.exe', 'Get-Service', 'Start-ScheduledTask',
		'Register-ScheduledTask', 'New-ScheduledTaskAction', 'New-ScheduledTaskTrigger', 'New-ScheduledTaskPrincipal',
		'New-ScheduledTaskSettingsSet') {
		if (-not (Get-Command $name -ErrorAction Ignore)) { Set-Item "function:$name" { param($Name) } }
	}
	$clock = @{ Now = 1000.0 } # moves only when somebody sleeps
	$log = [Collections.Generic.List[string]]::new()
	$machine = @{} # what a test says of it

	function Get-Failure([scriptblock]$Action) { try { $null = & $Action } catch { $_.Exception.Message } }
	function Set-Variables($Table) { foreach ($name in $Table.Keys) { Set-Variable $name $Table[$name] -Scope 1 } }
}

Describe 'windows.ps1' {
	BeforeEach {
		$log.Clear()
		Mock Write-Log { $log.Add($Message) }
		Mock Start-Sleep { $clock.Now += $Milliseconds / 1000 }
		Mock Get-Seconds { $clock.Now }
	}

	Context 'Settings' {
		It 'are good' { Get-SettingProblem | Should -BeNullOrEmpty }

		It '<Name>=<Value> is good' -ForEach @(
			@{ Name = 'ApiUrl'; Value = 'http://127.0.0.1:3000/v1' }
			@{ Name = 'ApiUrl'; Value = 'https://api.acme.example/a/b' }
			@{ Name = 'Target'; Value = 'repos/acme/widgets.git2' }
			@{ Name = 'Region'; Value = 'us-gov-west-1' }
			@{ Name = 'RunnerLabels'; Value = 'a,b&c' }
			@{ Name = 'RunnerGroup'; Value = 'my group' }
			@{ Name = 'RunnerAfterJob'; Value = 'stay' }
			@{ Name = 'RunnerIdleTimeout'; Value = '60' }
			@{ Name = 'RunnerVersion'; Value = '2.999.0' }
			@{ Name = 'RunnerSha256'; Value = 'aB' * 32 }
			@{ Name = 'RunnerDir'; Value = 'D:\a\b.c' }
			@{ Name = 'ImdsUrl'; Value = 'http://[fd00:ec2::254]' }
		) {
			Set-Variable $Name $Value
			Get-SettingProblem | Should -BeNullOrEmpty
		}

		It '<Name>=<Value> is named' -ForEach @(
			@{ Name = 'ApiUrl'; Value = '' }
			@{ Name = 'ApiUrl'; Value = 'http://example.com' }
			@{ Name = 'ApiUrl'; Value = 'https://x.example/a b' }
			@{ Name = 'ApiUrl'; Value = 'https://x.example/?a' }
			@{ Name = 'Target'; Value = '' }
			@{ Name = 'Target'; Value = 'orgs/Acme' }
			@{ Name = 'Target'; Value = 'acme' }
			@{ Name = 'Target'; Value = 'repos/acme/..' }
			@{ Name = 'Target'; Value = 'repos/acme/widgets.git' }
			@{ Name = 'Target'; Value = "orgs/acme`n" }
			@{ Name = 'Region'; Value = '' }
			@{ Name = 'Region'; Value = 'Frankfurt' }
			@{ Name = 'Region'; Value = "eu-central-$([char]0x0661)" }
			@{ Name = 'RunnerLabels'; Value = 'a b' }
			@{ Name = 'RunnerLabels'; Value = 'a,,b' }
			@{ Name = 'RunnerLabels'; Value = "gr$([char]0xf6)sse" }
			@{ Name = 'RunnerGroup'; Value = 'a"b' }
			@{ Name = 'RunnerGroup'; Value = 'a\' }
			@{ Name = 'RunnerGroup'; Value = "B$([char]0xfc)ro" }
			@{ Name = 'RunnerEphemeral'; Value = 'false' }
			@{ Name = 'RunnerAfterJob'; Value = 'PowerOff' }
			@{ Name = 'RunnerIdleTimeout'; Value = '59' }
			@{ Name = 'RunnerIdleTimeout'; Value = '' }
			@{ Name = 'RunnerIdleTimeout'; Value = '5m' }
			@{ Name = 'RunnerVersion'; Value = 'v2.999.0' }
			@{ Name = 'RunnerVersion'; Value = '.' }
			@{ Name = 'RunnerSha256'; Value = 'xyz' }
			@{ Name = 'RunnerDir'; Value = 'C:\my runner' }
			@{ Name = 'RunnerDir'; Value = 'actions-runner' }
			@{ Name = 'RunnerCaFile'; Value = 'C:\there\is\none.pem' }
			@{ Name = 'RunnerTokenTimeout'; Value = '0' }
			@{ Name = 'RunnerTokenTimeout'; Value = '-1' }
			@{ Name = 'RunnerTokenTimeout'; Value = 'soon' }
			@{ Name = 'RunnerTokenTimeout'; Value = '' }
			@{ Name = 'ImdsUrl'; Value = 'nonsense' }
			@{ Name = 'ReleasesUrl'; Value = 'ftp://x.example' }
			@{ Name = 'DownloadUrl'; Value = '' }
		) {
			Set-Variable $Name $Value
			$problems = @(Get-SettingProblem)
			$problems | Should -HaveCount 1
			$problems[0] | Should -Match "^$Name is (malformed|not set): set it to "
		}

		It '<Name>=<Value> in the environment is named' -ForEach @(
			@{ Name = 'https_proxy'; Value = 'https://proxy.example' }
			@{ Name = 'http_proxy'; Value = 'http://a proxy' }
			@{ Name = 'no_proxy'; Value = "a`nb" }
		) {
			[Environment]::SetEnvironmentVariable($Name, $Value)
			try { $problems = @(Get-SettingProblem) } finally { [Environment]::SetEnvironmentVariable($Name, $null) }
			$problems | Should -HaveCount 1
			$problems[0] | Should -Match "^$Name is malformed: set it to "
		}

		It 'a certificate that is broken is named' {
			$RunnerCaFile = "$TestDrive/ca.pem"
			Set-Content $RunnerCaFile '-----BEGIN CERTIFICATE-----', 'AAAA', '-----END CERTIFICATE-----'
			@(Get-SettingProblem) | Should -HaveCount 1
		}

		It 'are all named at once' {
			$ApiUrl = $Target = $Region = ''
			$unknown = '-Targt x'
			(@(Get-SettingProblem) -replace ' .*') -join ' ' | Should -Be 'ApiUrl Target Region -Targt'
		}
	}

	Context 'The signature' {
		It 'is botocore''s: <Name>' -ForEach $vectors {
			Get-Authorization $V.host $V.path $V.region $V.date $V.access_key $V.secret_key $V.session_token |
				Should -BeExactly $V.authorization
		}
	}

	Context 'A field of JSON' {
		It '<Want> is <Name> of <Json>' -ForEach @(
			@{ Name = 'token'; Json = '{"token":"AABF3J-x_9"}'; Want = 'AABF3J-x_9' }
			@{ Name = 'token'; Json = "{`n  `"token`" : `"A`",`n  `"runner_url`": `"u`"`n}"; Want = 'A' }
			@{ Name = 'token'; Json = '{"token":"\u0041B"}'; Want = 'AB' }
			@{ Name = 'message'; Json = '{"message":"target \"x\" \\ \/ \t."}'; Want = "target `"x`" \ / `t." }
			@{ Name = 'code'; Json = '{"message":"not \"code\":\"x\"","code":"TargetNotAllowed"}'; Want = 'TargetNotAllowed' }
			@{ Name = 'code'; Json = '{"message":"Forbidden"}'; Want = '' }
			@{ Name = 'code'; Json = '<html>"code"</html>'; Want = '' }
			@{ Name = 'code'; Json = '{"code":7}'; Want = '' }
			@{ Name = 'code'; Json = '{"code":"\x"}'; Want = '' }
			@{ Name = 'code'; Json = ''; Want = '' }
		) { Get-Field $Json $Name | Should -BeExactly $Want }

		It 'is short and printable in the log' {
			$said = Get-Printable ("a`e[31mb`u{202e}c" + 'x' * 1000000)
			$said.Length | Should -Be 500
			$said | Should -MatchExactly '^a \[31mb cx+$'
		}
	}

	Context 'A proxy' {
		It '<Url>: <Want>' -ForEach @(
			@{ Url = 'https://api.example/'; Env = @{}; Want = 'as Windows has it' }
			@{ Url = 'https://api.example/'; Env = @{ https_proxy = 'http://p:3128' }; Want = 'http://p:3128/' }
			@{ Url = 'https://api.example/'; Env = @{ HTTPS_PROXY = 'p' }; Want = 'http://p/' }
			@{ Url = 'http://api.example/'; Env = @{ https_proxy = 'http://p:3128' }; Want = 'none' }
			@{ Url = 'https://api.example/'; Env = @{ http_proxy = 'http://p' }; Want = 'none' }
			@{ Url = 'https://api.example/'; Env = @{ https_proxy = 'p'; no_proxy = 'x, .example' }; Want = 'none' }
			@{ Url = 'https://api.example/'; Env = @{ https_proxy = 'p'; NO_PROXY = 'api.example' }; Want = 'none' }
			@{ Url = 'https://api.example/'; Env = @{ https_proxy = 'p'; no_proxy = '*' }; Want = 'none' }
			@{ Url = 'https://api.example/'; Env = @{ https_proxy = 'p'; no_proxy = 'pi.example,' }; Want = 'http://p/' }
			@{ Url = 'https://api.example/'; Env = @{ https_proxy = 'http://us%40er:p%3Aw@p:1' }
				Want = 'http://p:1/ us@er p:w' }
			@{ Url = 'https://api.example/'; Env = @{ https_proxy = 'user@p' }; Want = 'http://p/ user ' }
		) {
			foreach ($name in $Env.Keys) { [Environment]::SetEnvironmentVariable($name, $Env[$name]) }
			try { $proxy = Get-Proxy $Url } finally {
				foreach ($name in $Env.Keys) { [Environment]::SetEnvironmentVariable($name, $null) }
			}
			$got = if ($null -eq $proxy) { 'as Windows has it' } elseif (-not $proxy.Address) { 'none' } else {
				"$($proxy.Address)"
				if ($proxy.Credentials) { "$($proxy.Credentials.UserName) $($proxy.Credentials.Password)" }
			}
			"$got" | Should -BeExactly $Want
		}
	}

	Context 'Why there is no answer' {
		It '<Error> is <Want>' -ForEach @(
			@{ Error = [Threading.Tasks.TaskCanceledException]::new('Eine Aufgabe wurde abgebrochen.')
				Want = '^no answer within 7 s$' }
			@{ Error = [Exception]::new('Connection refused'); Want = '^no answer: Connection refused$' }
			@{ Error = [Net.WebException]::new('Vertrauensstellung', [Net.WebExceptionStatus]::TrustFailure) # 5.1, in German
				Want = '^the certificate of x\.example is not trusted\. Remedy: .*RunnerCaFile.*ctldl\.windowsupdate\.com' }
			@{ Error = [Security.Authentication.AuthenticationException]::new('The remote certificate is invalid because') # 7
				Want = '^the certificate of x\.example' }
			@{ Error = [Security.Authentication.AuthenticationException]::new('Cannot determine the frame size') # no TLS at all
				Want = '^no answer: Cannot' }
		) {
			$why, $untrusted = Get-WebError ([Exception]::new('outer', $Error)) 'https://x.example/a' 7
			$why | Should -Match $Want
			$untrusted | Should -Be ($why -match 'not trusted')
		}
	}

	Context 'The role''s credentials' {
		BeforeAll {
			function Get-Why { (Get-RoleCredential).Error }
		}
		BeforeEach {
			$machine.List = @{ Status = 200; Body = "github-runner`n"; Error = '' }
			Mock Get-Imds {
				if ($Path -eq 'iam/security-credentials/') { $machine.List } else { @{ Status = 200; Body = $answered } }
			}
		}

		It 'are read' {
			$answered = "{`n  `"AccessKeyId`" : `"ASIA1`",`n  `"SecretAccessKey`" : `"s/+`",`n  `"Token`" : `"t=`"`n}"
			$got = Get-RoleCredential
			"$($got.Id) $($got.Secret) $($got.Token)$($got.Error)" | Should -BeExactly 'ASIA1 s/+ t='
			Should -Invoke Get-Imds -ParameterFilter { $Path -eq 'iam/security-credentials/github-runner' } -Times 1 -Exactly
		}

		It 'are none: <Json>' -ForEach @(
			@{ Json = '{"Code":"AssumeRoleUnauthorizedAccess","Message":"EC2 cannot assume the role github-runner."}'
				Want = '^no credentials of the role github-runner: AssumeRoleUnauthorizedAccess: EC2 cannot' }
			@{ Json = '{"Code":"Success"}'; Want = '^no credentials of the role github-runner$' }
			@{ Json = '<html>'; Want = '^no credentials of the role github-runner$' }
			@{ Json = '{"AccessKeyId":"A\r\nX: y","SecretAccessKey":"s"}'; Want = '^no credentials of the role github-runner$' }
		) {
			$answered = $Json
			Get-Why | Should -Match $Want
		}

		It 'are none without a role' {
			$machine.List, $answered = @{ Status = 404; Body = '<html>'; Error = '' }, ''
			Get-Why | Should -Be 'the instance has no role'
		}

		It 'are none without a metadata service, which is another sentence' {
			$machine.List, $answered = @{ Status = 0; Body = ''; Error = 'no answer within 5 s' }, ''
			Get-Why | Should -Match '^no answer from the metadata service http://169\.254\.169\.254$'
		}

		It 'are not looked for elsewhere: <_>' -ForEach 'AWS_ACCESS_KEY_ID', 'AWS_CONTAINER_CREDENTIALS_RELATIVE_URI' {
			$machine.List, $answered = @{ Status = 0; Body = ''; Error = 'no answer' }, ''
			[Environment]::SetEnvironmentVariable($_, 'x')
			try { $why = Get-Failure { Get-RoleCredential } } finally { [Environment]::SetEnvironmentVariable($_, $null) }
			$why | Should -Match "^3 no answer from .*, and $_ is set\. Remedy: this script signs as an instance's role only"
		}
	}

	Context 'The metadata service' {
		It 'gets no session that could not be a header' {
			Mock Send-Request { @{ Status = 200; Body = "a`r`nX: y" } }
			$null = Get-Imds 'instance-id'
			Should -Invoke Send-Request -Times 1 -Exactly -ParameterFilter { $Method -eq 'PUT' }
			Should -Invoke Send-Request -Times 0 -Exactly -ParameterFilter { $Method -eq 'GET' }
		}
	}

	Context 'A retry' {
		It 'comes after <Status> <Code>' -ForEach @(
			@{ Status = 0; Code = '' }, @{ Status = 429; Code = '' }, @{ Status = 503; Code = '' },
			@{ Status = 503; Code = 'RateLimited' }, @{ Status = 503; Code = 'Unavailable' }, @{ Status = 504; Code = '' },
			@{ Status = 500; Code = '' }, @{ Status = 502; Code = '' }
		) { Test-Retryable $Status $Code | Should -BeTrue }

		It 'does not come after <Status> <Code>' -ForEach @(
			@{ Status = 400; Code = 'InvalidRequest' }, @{ Status = 403; Code = 'TargetNotAllowed' },
			@{ Status = 404; Code = '' }, @{ Status = 404; Code = 'TargetNotFound' }, @{ Status = 301; Code = '' },
			@{ Status = 500; Code = 'CredentialMissing' }, @{ Status = 500; Code = 'Internal' },
			@{ Status = 502; Code = 'CredentialRejected' }, @{ Status = 502; Code = 'CredentialForbidden' }
		) { Test-Retryable $Status $Code | Should -BeFalse }

		It 'never comes before Retry-After, and not of all at once' {
			$waits = foreach ($try in 1..50) { Get-Wait ([TimeSpan]::FromSeconds(7)) 2 }
			($waits | Measure-Object -Minimum).Minimum | Should -BeGreaterOrEqual 7
			($waits | Measure-Object -Maximum).Maximum | Should -BeLessOrEqual 9
			($waits | Select-Object -Unique).Count | Should -BeGreaterThan 10
		}

		It 'comes within the wait, and not of all at once' {
			$waits = foreach ($try in 1..50) { Get-Wait $null 4 }
			($waits | Measure-Object -Minimum).Minimum | Should -BeGreaterOrEqual 2
			($waits | Measure-Object -Maximum).Maximum | Should -BeLessOrEqual 4
			($waits | Select-Object -Unique).Count | Should -BeGreaterThan 10
		}
	}

	Context 'A token' {
		BeforeAll {
			function New-Answer($Status, $Body, $RetryAfter, $Date, $RequestId) {
				if ($RetryAfter) { $RetryAfter = [TimeSpan]::FromSeconds($RetryAfter) }
				if (-not $Date) { $Date = [DateTimeOffset]::UtcNow }
				@{ Status = $Status; Body = $Body; RetryAfter = $RetryAfter; Date = $Date; RequestId = $RequestId; Error = ''
					Untrusted = $false; Cause = '' }
			}
			$token = '{"token":"AABF3J-x_9","runner_url":"https://github.com/acme"}'
			$coded = '{"code":"{0}","message":"m","request_id":"r-1"}'
			$forbidden = '{"message":"Forbidden"}'
			$dead = @{ Error = 'no answer: x'; Untrusted = $false; Cause = '' }
		}

		# Answers are those of one try after the other. The last one is for all that follow.
		It '<Name>' -ForEach @(
			@{ Name = 'at once'; Answers = { New-Answer 201 $token }; Want = '^AABF3J-x_9$'; Tries = 1 }
			@{ Name = 'GitHub Enterprise answers 200'; Answers = { New-Answer 200 $token }; Want = '^AABF3J-x_9$'; Tries = 1 }
			@{ Name = 'after 503 twice'; Want = '^AABF3J-x_9$'; Tries = 3; Slept = 10
				Answers = { New-Answer 503 ($coded -replace '\{0}', 'RateLimited') 5; New-Answer 503 '' 5; New-Answer 201 $token } }
			@{ Name = 'after a minute without the policy'; Want = '^AABF3J-x_9$'; Slept = 45
				Answers = { 1..7 | ForEach-Object { New-Answer 403 $forbidden }; New-Answer 201 $token } }
			@{ Name = 'never, for want of the policy'; Answers = { New-Answer 403 $forbidden }; Slept = 80; AtMost = 115
				Want = '^5 refused: 403 without a code: Forbidden\. Remedy: API Gateway refused: allow the role' }
			@{ Name = 'never, for want of the policy, in less time'; Answers = { New-Answer 403 $forbidden }; Timeout = 20
				Want = '^5 refused: 403 without a code'; AtMost = 20 }
			@{ Name = 'API Gateway''s request_id is told'; Answers = { New-Answer 404 $forbidden $null $null 'gw-1=' }; Tries = 1
				Want = '^5 refused: 404 without a code: Forbidden \(request_id gw-1=\)\. Remedy: API Gateway has no such path' }
			@{ Name = 'Retry-After is too long'; Answers = { New-Answer 503 ($coded -replace '\{0}', 'RateLimited') 900 }
				Tries = 1
				Want = '^6 no token within .*=300 s: 503 RateLimited: m \(request_id r-1\); it asked to wait 900 s\. Remedy: wait' }
			@{ Name = 'refused'; Answers = { New-Answer 502 ($coded -replace '\{0}', 'CredentialRejected') }; Tries = 1
				Want = '^5 refused: 502 CredentialRejected: m \(request_id r-1\)\. Remedy: operator: the PAT expired' }
			@{ Name = 'empty'; Answers = { New-Answer 201 '{"token":"","runner_url":"https://x.example"}' }; Tries = 1
				Want = '^5 the answer has no token: is ApiUrl' }
			@{ Name = 'with a token that is none'
				Answers = { New-Answer 201 '{"token":"a b","runner_url":"https://x.example"}' }
				Tries = 1; Want = '^5 the answer has no token' }
			@{ Name = 'with a URL that is none'; Answers = { New-Answer 201 '{"token":"a","runner_url":"https://x\" & calc"}' }
				Tries = 1; Want = '^5 the answer has no token' }
			@{ Name = 'no network for ever'; Answers = { $dead }; Slept = 250; AtMost = 300
				Want = '^6 no token within RunnerTokenTimeout=300 s: no answer: x\. Remedy: check ApiUrl, the network' }
			@{ Name = 'no network at first'; Answers = { $dead; $dead; New-Answer 201 $token }; Want = '^AABF3J-x_9$'
				Tries = 3 }
			@{ Name = 'an unknown CA'; Answers = { @{ Error = 'the certificate'; Untrusted = $true; Cause = '' } }
				Want = '^5 refused: the certificate$'; Tries = 1 }
			@{ Name = 'no credentials for ever'; Answers = { @{ Cause = 'credentials'; Error = 'no role' } }; Slept = 250
				AtMost = 300
				Want = '^3 no token within RunnerTokenTimeout=300 s: no role\. Remedy: attach an instance profile' }
			@{ Name = 'no credentials at first'
				Answers = { @{ Cause = 'credentials'; Error = 'no role' }; New-Answer 201 $token }; Tries = 2
				Want = '^AABF3J-x_9$' }
			@{ Name = 'the clock is slow for ever'; Want = '^4 .*the clock is off by -\d+ s'; Slept = 250; AtMost = 300
				Answers = { New-Answer 403 $forbidden $null ([DateTimeOffset]::UtcNow.AddHours(1)) } }
			@{ Name = 'the clock is fast until it is set'; Want = '^AABF3J-x_9$'; Tries = 2
				Answers = { New-Answer 403 $forbidden $null ([DateTimeOffset]::UtcNow.AddHours(-1)); New-Answer 201 $token } }
			@{ Name = 'a Date that cannot be read'; Want = '^5 refused: 403 .*; its Date header cannot be read$'; Tries = 1
				Answers = { $answer = New-Answer 403 $forbidden; $answer.Date = $null; $answer } }
			@{ Name = 'the clock is right, and the policy is missing'; Want = '^5 '; Timeout = 20
				Answers = { New-Answer 403 $forbidden $null ([DateTimeOffset]::UtcNow.AddSeconds(30)) } }
		) {
			$Tries, $Timeout, $Slept, $AtMost = foreach ($given in 'Tries', 'Timeout', 'Slept', 'AtMost') {
				$default = @{ Tries = 0; Timeout = 300; Slept = 0; AtMost = 300 }[$given]
				$(if ($_.ContainsKey($given)) { $_[$given] } else { $default })
			}
			$state = @{ Try = 0; Answers = @(& $Answers) }
			Mock Send-Signed { $state.Answers[[Math]::Min($state.Try++, $state.Answers.Count - 1)] }
			$start = $clock.Now
			$got = try { (Get-RunnerToken 'registration-token' $Timeout).Token } catch { $_.Exception.Message }
			$got | Should -Match $Want
			if ($Tries) { $state.Try | Should -Be $Tries }
			$clock.Now - $start | Should -BeGreaterOrEqual $Slept
			$clock.Now - $start | Should -BeLessOrEqual $AtMost
		}
	}

	Context 'A machine' {
		BeforeEach {
			$root = Join-Path $TestDrive ([guid]::NewGuid())
			$RunnerDir, $stateDir = "$root\runner", "$root\state"
			$stateFile = "$stateDir\settings.json"
			$null = New-Item -ItemType Directory $stateDir
			$machine = @{
				Service = $null; Elevated = $true; Local = $true; Worker = $false; Off = 0; Deleted = 0; Gpupdate = 0
				Calls = [Collections.Generic.List[string]]::new()
				Task = $null
			}
			function Set-Service_($Status) {
				$machine.Service = [pscustomobject]@{ Name = 'actions.runner.acme.i-0a1'; Status = $Status }
			}
			function Add-Diag($Text) {
				$null = New-Item -ItemType Directory -Force "$RunnerDir\_diag"
				Set-Content "$RunnerDir\_diag\Runner_20261126-02$('{0:d4}' -f $machine.Calls.Count)-utc.log" $Text
			}
			function Add-Runner { # as the package has it
				$null = New-Item -ItemType Directory "$RunnerDir\bin"
				Set-Content "$RunnerDir\config.cmd", "$RunnerDir\bin\Runner.Listener.exe" 'original'
			}
			function Add-Registration {
				Set-Content "$RunnerDir\.runner", "$RunnerDir\.credentials", "$RunnerDir\.credentials_rsaparams" 'x'
			}
			# What config.cmd does, unless a test has it do something else.
			$machine.Register = {
				Add-Registration
				Set-Service_ Running
				Add-Diag "2026-11-26 02:00:00Z: Listening for Jobs"
			}
			$machine.Remove = { Remove-Item "$Folder\.runner", "$Folder\.credentials" -Force }

			Mock whoami.exe { 'Mandatory Label\x', $(if ($machine.Elevated) { 'S-1-16-12288' } else { 'S-1-16-8192' }) }
			Mock gpupdate.exe { Set-Variable LASTEXITCODE $machine.Gpupdate -Scope Global; 'said' }
			Mock shutdown.exe { Set-Variable LASTEXITCODE 0 -Scope Global; $machine.Off++ }
			Mock sc.exe { $machine.Deleted++; $machine.Service = $null }
			Mock Get-Service { $machine.Service }
			Mock Get-Process { if ($machine.Worker) { 'Runner.Worker' } }
			Mock Start-ScheduledTask { $machine.Calls.Add('task started') }
			Mock Register-ShutdownScript { $machine.Calls.Add("shutdown: $Call") }
			Mock Register-Watch { $machine.Calls.Add("watch: $Call") }
			Mock Install-Runner { if (-not (Test-Path "$RunnerDir\config.cmd")) { Add-Runner } }
			Mock Set-Environment { $null }
			Mock Get-Imds { @{ Status = 200; Body = 'i-0a1'; Error = '' } }
			Mock Get-RunnerToken { $machine.Calls.Add("$Kind $Timeout"); @{ Token = 'T'; Url = 'https://github.com/acme' } }
			Mock Invoke-Config {
				$machine.Calls.Add("$Folder`: $Arguments")
				if ($Arguments -eq 'remove') { . $machine.Remove } else { . $machine.Register }
			}
		}

		It 'registers, and says so when the listener is connected' {
			$RunnerLabels, $RunnerGroup = 'a,b', 'my group'
			Start-Runner
			$machine.Calls -join "`n" | Should -BeExactly (@(
					"shutdown: -NoProfile -ExecutionPolicy Bypass -File `"$stateDir\windows.ps1`""
					"watch: -NoProfile -ExecutionPolicy Bypass -File `"$stateDir\windows.ps1`""
					'registration-token 300'
					"$RunnerDir`: --unattended --replace --runasservice --url https://github.com/acme --name i-0a1 --ephemeral" +
					' --labels "a,b" --runnergroup "my group"'
					'task started') -join "`n")
			$log[-1] | Should -Be 'the runner is registered and its service started'
			Get-Content "$stateDir\windows.ps1" | Should -Be (Get-Content "$PSScriptRoot/windows.ps1")
			Get-Content "$stateDir\runner\bin\Runner.Listener.exe" | Should -Be 'original'
		}

		It 'looks at elevation before anything else' {
			$machine.Elevated = $false
			Get-Failure { Start-Runner } | Should -Be '2 run this as administrator'
			$machine.Calls | Should -BeNullOrEmpty
		}

		It 'spends no token if the shutdown script or the task cannot be made' {
			Mock Register-Watch { throw 'x' }
			Get-Failure { Start-Runner } | Should -Be 'x'
			$machine.Calls -join "`n" | Should -Not -Match 'token'
		}

		It 'is used again where it was interrupted: <Name>' -ForEach @(
			@{ Name = 'before config.cmd registered'; Before = { $null } }
			@{ Name = 'after config.cmd registered'; Before = { Add-Registration } }
		) {
			Add-Runner
			$instanceId = 'i-0a1'
			Save-State
			& $Before
			Start-Runner
			$machine.Calls -join "`n" | Should -Match '--replace'
			$log[-1] | Should -Match 'its service started'
		}

		It 'registers once' {
			Start-Runner
			$machine.Calls.Clear()
			Start-Runner
			$log[-1] | Should -Be 'the runner is registered already'
			$machine.Calls | Should -BeNullOrEmpty
		}

		It 'is not used again after a job' {
			Start-Runner
			Remove-Item "$RunnerDir\.runner" -Force # as the listener does
			Set-Service_ Stopped
			$machine.Calls.Clear()
			Get-Failure { Start-Runner } | Should -Match '^7 a job has used .*: launch a new instance$'
			$machine.Calls | Should -BeNullOrEmpty
		}

		It 'begins anew in an instance of an image that was made of a registered one' {
			Start-Runner
			$machine.Calls.Clear()
			Mock Get-Imds { @{ Status = 200; Body = 'i-0b2'; Error = '' } }
			Start-Runner
			$machine.Deleted | Should -Be 1
			$machine.Calls -join "`n" | Should -Match '--name i-0b2 '
		}

		It 'waits for its name' {
			$machine.Asked = 0
			Mock Get-Imds { @{ Status = 0; Body = $(if ($machine.Asked++ -gt 2) { 'i-0a1' }); Error = 'x' } }
			Start-Runner
			Mock Get-Imds { @{ Status = 404; Body = '<html>'; Error = '' } }
			Get-Failure { Start-Runner } | Should -Match '^3 no instance id from '
		}

		It 'does not take somebody else''s registration' {
			Add-Runner
			Add-Registration
			Get-Failure { Start-Runner } | Should -Match '^7 .* holds a runner that is configured'
			Test-Path "$RunnerDir\.runner" | Should -BeTrue
		}

		It 'takes back a registration without a service' {
			$machine.Register = { Add-Registration; throw '8 config.cmd failed with 1' }
			Get-Failure { Start-Runner } | Should -Be '8 config.cmd failed with 1'
			$machine.Calls[-2] | Should -Be 'remove-token 60'
			$machine.Calls[-1] | Should -Be "$stateDir\runner: remove"
			Test-Path "$RunnerDir\.runner" | Should -BeFalse
			Test-Path $stateFile | Should -BeFalse # so that no watch turns off what failed
			$machine.Calls | Should -Not -Contain 'task started'
			$machine.Register = { Add-Registration; Set-Service_ Running; Add-Diag 'Listening for Jobs' }
			Start-Runner # and the next run begins anew
		}

		It 'says that a registration stays' {
			$machine.Register = { Add-Registration; throw '8 config.cmd failed with 1' }
			$machine.Remove = { throw '8 config.cmd failed with 2' }
			Get-Failure { Start-Runner } | Should -Be '8 config.cmd failed with 1'
			$log[-2..-1] | Should -Be '8 config.cmd failed with 2',
				'the registration stays: remove it at GitHub, or run this again'
			$machine.Register = { Add-Registration; Set-Service_ Running; Add-Diag 'Listening for Jobs' }
			Start-Runner
		}

		It 'tells a version that has ended: <Name>' -ForEach @(
			@{ Name = 'when it registers'; Register = { throw $tooOld } }
			@{ Name = 'when it connects'; Register = {
					Add-Registration
					Set-Service_ Stopped
					Add-Diag 'Listening for Jobs', 'An error occured: Runner version v2.1.0 is deprecated and cannot receive messages.'
				}
			}
			@{ Name = 'a second after it connected'; Register = {
					Add-Registration
					Set-Service_ Running
					Add-Diag 'Listening for Jobs'
					Mock Start-Sleep {
						Set-Service_ Stopped
						Add-Diag 'Listening for Jobs', 'Runner version v2.1.0 is deprecated and cannot receive messages.'
					}
				}
			}
		) {
			$machine.Register = $Register
			Get-Failure { Start-Runner } | Should -Be $tooOld
			Test-Path "$RunnerDir\.runner" | Should -BeFalse
		}

		It 'tells a listener that does not last' {
			$machine.Register = {
				Add-Registration
				Set-Service_ Running
				Add-Diag 'Listening for Jobs'
				Mock Start-Sleep { Set-Service_ Stopped }
			}
			Get-Failure { Start-Runner } | Should -Match '^8 the runner''s service has stopped: see '
			$machine.Calls[-1] | Should -Be "$stateDir\runner: remove"
		}

		It 'does not wait for ever for a listener to connect, and leaves it trying' {
			$machine.Register = { Add-Registration; Set-Service_ Running; Add-Diag 'Runner connect error' }
			$start = $clock.Now
			Get-Failure { Start-Runner } | Should -Match '^8 the runner is not connected after 120 s, and goes on trying'
			$clock.Now - $start | Should -BeLessThan 140
			$machine.Calls[-1] | Should -Be 'task started'
			Test-Path $stateFile | Should -BeTrue
		}

		It 'is content with a job that came and went at once' {
			$machine.Register = {
				Set-Service_ Stopped
				Add-Diag 'Listening for Jobs', 'Running job: build', 'Job build completed with result: Succeeded'
			}
			Start-Runner
			$log[-1] | Should -Match 'its service started'
		}

		It 'keeps for SYSTEM what -Remove and -Watch need' {
			$ApiUrl, $RunnerIdleTimeout = 'https://kept.example', '600'
			[Environment]::SetEnvironmentVariable('https_proxy', 'http://p:1')
			try { Save-State } finally { [Environment]::SetEnvironmentVariable('https_proxy', $null) }
			$ApiUrl = $RunnerIdleTimeout = ''
			try {
				Read-State | Should -BeTrue
				[Environment]::GetEnvironmentVariable('https_proxy') | Should -Be 'http://p:1'
			} finally { [Environment]::SetEnvironmentVariable('https_proxy', $null) }
			"$ApiUrl $RunnerIdleTimeout" | Should -Be 'https://kept.example 600'
		}

		It 'leaves with the copy of the program, whatever a job made of the runner' {
			Start-Runner
			Set-Content "$RunnerDir\config.cmd", "$RunnerDir\bin\Runner.Listener.exe" 'changed'
			$machine.Remove = {
				Get-Content "$Folder\bin\Runner.Listener.exe", "$Folder\config.cmd" | Should -Be 'original', 'original'
				Test-Path "$Folder\.runner" | Should -BeTrue
			}
			Remove-Runner 20
			$machine.Calls[-2] | Should -Be 'remove-token 20'
			$machine.Calls[-1] | Should -Be "$stateDir\runner: remove"
			$machine.Deleted | Should -Be 1
			Test-Path "$RunnerDir\.runner" | Should -BeFalse
		}

		It 'does not leave after its job' {
			Start-Runner
			Remove-Item "$RunnerDir\.runner" -Force
			$machine.Calls.Clear()
			Remove-Runner 20
			$machine.Calls | Should -BeNullOrEmpty
		}

		Context 'that is watched' {
			BeforeEach {
				Add-Runner
				Add-Registration
				Copy-Program
				Save-State
				Set-Service_ Running
				Add-Diag 'Listening for Jobs'
				$machine.At = @{} # what happens when, in seconds
				$machine.Start = $clock.Now
				Mock Start-Sleep {
					$clock.Now += $Milliseconds / 1000
					foreach ($when in @($machine.At.Keys)) {
						if ($clock.Now - $machine.Start -ge $when) {
							$event = $machine.At[$when]
							$machine.At.Remove($when)
							& $event
						}
					}
					if ($clock.Now - $machine.Start -gt 10000) { throw 'it watched for ever' }
				}
				function Get-Watched { # how long, in seconds
					Watch-Runner
					$clock.Now - $machine.Start
				}
			}

			It 'is turned off when <Name>' -ForEach @(
				@{ Name = 'the job is done'; Diag = 'Job build completed with result: Succeeded'
					Said = 'the runner has had its job: Succeeded' }
				@{ Name = 'the version has ended'; Diag = 'Runner version v2.1.0 is deprecated and cannot receive messages.'
					Said = '^GitHub has ended this version of the runner: ' }
				@{ Name = 'the service has ended without a job'; Diag = 'Access denied'; Said = 'has ended without a job: see ' }
			) {
				$machine.At[1000] = { Set-Service_ Stopped; Add-Diag $Diag }
				$watched = Get-Watched
				$machine.Off | Should -Be 1
				$watched | Should -BeGreaterThan 1080
				$watched | Should -BeLessThan 1120
				$log[-2] | Should -Match $Said
				$log[-1] | Should -Be 'the instance goes off'
			}

			It 'stays if RunnerAfterJob says so' {
				$RunnerAfterJob = 'stay'
				$machine.At[1000] = { Set-Service_ Stopped; Add-Diag 'Job build completed with result: Failed' }
				$null = Get-Watched
				$machine.Off | Should -Be 0
				$log[-1] | Should -Be 'the runner has had its job: Failed'
			}

			It 'survives a self-update, which stops the service for a minute' {
				$machine.At[100] = { Set-Service_ Stopped }
				$machine.At[165] = { Set-Service_ Running }
				$machine.At[5000] = { Set-Service_ Stopped }
				Get-Watched | Should -BeGreaterThan 5000
			}

			It 'waits for a service that Windows starts late after a boot' {
				Set-Service_ Stopped
				$machine.At[300] = { Set-Service_ Running }
				$machine.At[5000] = { Set-Service_ Stopped }
				Get-Watched | Should -BeGreaterThan 5000
			}

			It 'is turned off when the service never starts' {
				Set-Service_ Stopped
				Get-Watched | Should -BeLessThan 700
				$machine.Off | Should -Be 1
			}

			It 'leaves and is turned off when no job comes' {
				$RunnerIdleTimeout = '600'
				Get-Watched | Should -BeLessThan 620
				$machine.Calls -join ', ' | Should -Be "remove-token 20, $stateDir\runner: remove"
				$machine.Off | Should -Be 1
			}

			It 'is not turned off while a job runs, nor after one' {
				$RunnerIdleTimeout = '600'
				$machine.At[300] = { $machine.Worker = $true }
				$machine.At[4000] = { $machine.Worker = $false }
				$machine.At[5000] = { Set-Service_ Stopped }
				Get-Watched | Should -BeGreaterThan 5000
				$machine.Calls | Should -BeNullOrEmpty
			}

			It 'goes on if GitHub refuses, because a job came meanwhile' {
				$RunnerIdleTimeout = '600'
				$machine.Remove = { throw '8 config.cmd failed with 1' }
				$machine.At[700] = { $machine.Worker = $true }
				$machine.At[5000] = { Set-Service_ Stopped }
				Get-Watched | Should -BeGreaterThan 5000
				$log -join "`n" | Should -Match 'cannot be removed, so it goes on: 8 config'
			}

			It 'tries again to leave, a minute later' {
				$RunnerIdleTimeout = '600'
				$machine.Remove = { throw '8 config.cmd failed with 1' }
				$machine.At[630] = { $machine.Remove = { $null } }
				Get-Watched | Should -BeLessThan 700
				$machine.Off | Should -Be 1
			}
		}
	}

	Context 'The shutdown script' {
		BeforeEach {
			$env:SystemRoot_ = $env:SystemRoot
			$env:SystemRoot = "$TestDrive"
			$policy = "$TestDrive\System32\GroupPolicy"
			Remove-Item $policy -Recurse -ErrorAction Ignore
			Mock gpupdate.exe { Set-Variable LASTEXITCODE 0 -Scope Global }
		}
		AfterEach { $env:SystemRoot = $env:SystemRoot_ }

		It 'is in the local policy, twice the same' {
			foreach ($time in 1, 2) { Register-ShutdownScript 'C:\powershell.exe' "-File `"$stateDir\windows.ps1`"" }
			Get-Content "$policy\Machine\Scripts\scripts.ini" |
				Should -Be '[Shutdown]', '0CmdLine=C:\powershell.exe', "0Parameters=-File `"$stateDir\windows.ps1`" -Remove"
			Get-Content "$policy\gpt.ini" | Select-Object -First 2 | Should -Be '[General]', 'Version=1'
		}

		It 'fails with gpupdate' {
			Mock gpupdate.exe { Set-Variable LASTEXITCODE 1 -Scope Global; 'Could not update' }
			Get-Failure { Register-ShutdownScript 'p' 'c' } | Should -Be '8 gpupdate failed with 1: Could not update'
		}

		It 'leaves somebody else''s policy alone, and says what to add' {
			$null = New-Item -ItemType Directory $policy
			Set-Content "$policy\gpt.ini" '[General]'
			Register-ShutdownScript 'p' '-File x'
			Get-Content "$policy\gpt.ini" | Should -Be '[General]'
			$log[-1] | Should -Match 'add a shutdown script to it, powershell -File x -Remove$'
			Should -Invoke gpupdate.exe -Times 0 -Exactly
		}
	}
}
