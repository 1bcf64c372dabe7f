# Runs windows.ps1 with stand-ins for what only Windows has: drive C:, cmd.exe, gpupdate, services, tasks. What they
# were told is in ROOT/record. The environment has ROOT, SETTINGS (JSON), and SPEED, by which clocks run faster.
New-PSDrive -Name C -PSProvider FileSystem -Root $env:ROOT | Out-Null
$env:ProgramData, $env:ProgramFiles, $env:SystemRoot = 'C:\ProgramData', 'C:\Program Files', 'C:\Windows'
$env:ComSpec = "$PSScriptRoot/cmd.sh"
$null = New-Item -ItemType Directory -Force $env:ProgramData, $env:ProgramFiles, $env:SystemRoot

function Add-Record($Name, $Text) { Add-Content "$env:ROOT/record/$Name" $Text }
function whoami.exe { if ($env:ELEVATED -ne 'no') { 'S-1-16-12288' } else { 'S-1-16-8192' } }
function gpupdate.exe {
	Add-Record gpupdate "$args"
	$global:LASTEXITCODE = [int]$env:GPUPDATE
	'said'
}
function shutdown.exe {
	Add-Record shutdown "$args"
	$global:LASTEXITCODE = 0
}
function sc.exe {
	Add-Record sc "$args"
	Remove-Item "$env:ROOT/service"
}
function taskkill.exe {
	Add-Record taskkill "$args"
	Stop-Process -Id $args[-1]
}
function Get-Service($Name) {
	if (Test-Path "$env:ROOT/service") {
		$service, $status = Get-Content "$env:ROOT/service"
		if ($service -like $Name) { [pscustomobject]@{ Name = $service; Status = $status } }
	}
}
function Get-Process { if (Test-Path "$env:ROOT/worker") { 'Runner.Worker' } } # others may test with such a process
function New-ScheduledTaskAction($Execute, $Argument) { "$Execute $Argument" }
function New-ScheduledTaskTrigger([switch]$AtStartup) { "at startup: $AtStartup" }
function New-ScheduledTaskPrincipal($UserId, $LogonType) { "$UserId $LogonType" }
function New-ScheduledTaskSettingsSet($ExecutionTimeLimit, [switch]$AllowStartIfOnBatteries) {
	"limit: $ExecutionTimeLimit"
}
function Register-ScheduledTask($TaskName, [switch]$Force, $Action, $Trigger, $Principal, $Settings) {
	Add-Record tasks "$TaskName", $Action, $Trigger, $Principal, $Settings
}
function Start-ScheduledTask($TaskName) { Add-Record tasks "start $TaskName" }

$settings = @{}
foreach ($setting in ($env:SETTINGS | ConvertFrom-Json).PSObject.Properties) {
	$settings[$setting.Name] = $setting.Value
}
. "$PSScriptRoot/../../examples/user-data/windows.ps1" -FunctionsOnly @settings
$certificateStore = 'CurrentUser' # Linux has no other that can be written to
$slept = @{ Seconds = 0 }
function Start-Sleep($Milliseconds) {
	$slept.Seconds += $Milliseconds / 1000
	if ($slept.Seconds -gt 7200) { throw '9 it goes on for ever' }
	Add-Record sleep ($Milliseconds / 1000)
}
function Get-Seconds {
	$slept.Seconds + [double]$env:SPEED * [Diagnostics.Stopwatch]::GetTimestamp() / [Diagnostics.Stopwatch]::Frequency
}
Invoke-Script
exit $status
