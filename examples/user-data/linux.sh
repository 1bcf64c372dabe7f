#!/usr/bin/env bash
# EC2 user data: turns the instance into a GitHub Actions runner. For Amazon Linux 2023, Ubuntu 22.04 and 24.04, Debian 12.
# Copy it into a launch template, set the three variables, attach the caller policy (output CallerPolicyArn) to the role.
#
#   linux.sh               install, register and start the runner; needs root
#   linux.sh --token-only  print a registration token and do nothing else
#   linux.sh --remove      remove this instance's runner; the shutdown hook of a runner that is not ephemeral calls it
#
# What it did is in /var/log/cloud-init-output.log and `journalctl -u cloud-final`. Exit status: 2 a variable, 3 no role
# credentials, 4 the clock, 5 refused, 6 no token in time, 7 the runner's package, 8 config.sh or the service.
set +x -euo pipefail # no trace, even under bash -x: it would print the token
umask 077
# A variable that came from the environment would go on to every child with its new value.
unset answer body code token runner_url creds access_key secret_key session_token imds_token

: "${API_URL:=}" # required: the stack's output ApiUrl
: "${TARGET:=}"  # required: orgs/acme, repos/acme/widgets or enterprises/acme-corp
: "${REGION:=}"  # required: the API's region, eu-central-1

: "${RUNNER_LABELS:=}"           # more labels, separated by commas
: "${RUNNER_GROUP:=}"            # the default group if empty
: "${RUNNER_EPHEMERAL:=true}"    # false: keeps taking jobs, and leaves when the instance stops
: "${RUNNER_VERSION:=}"          # 2.330.0; the newest if empty. GitHub gives no jobs to old ones
: "${RUNNER_SHA256:=}"           # of the package: with RUNNER_VERSION set too, GitHub's API is not asked
: "${RUNNER_USER:=github-runner}" # made if missing
: "${RUNNER_DIR:=/opt/actions-runner}"
: "${RUNNER_TOKEN_TIMEOUT:=300}" # seconds to go on asking for the token
: "${CREDENTIALS_TIMEOUT:=200}"  # seconds to wait for the role's credentials
: "${CLOCK_TIMEOUT:=120}"        # seconds to wait for the right time
: "${RETRY_MS:=2000}"            # the first wait between two tries, and the most jitter added to Retry-After
: "${SIGNER:=auto}"              # curl or openssl

# Other places for what is fetched and written: mirrors, GHES without internet access, tests.
: "${IMDS_URL:=http://169.254.169.254}"
: "${RELEASES_URL:=https://api.github.com/repos/actions/runner/releases}"
: "${DOWNLOAD_URL:=https://github.com/actions/runner/releases/download}"
: "${HOOK_DIR:=/opt/runner-token-broker}"
: "${UNIT_DIR:=/etc/systemd/system}"

log() { printf 'runner: %s\n' "$*" >&2; }
die() { local status=$1; shift; log "$*"; exit "$status"; }

need() { # need VARIABLE PATTERN EXPLANATION
  [[ ${!1} =~ ^($2)$ ]] && return
  [[ -n ${!1} ]] || die 2 "$1 is not set: $3"
  die 2 "$1 is malformed: $3"
}

check_settings() {
  API_URL=${API_URL%/}
  need API_URL 'https://[A-Za-z0-9.-]+(:[0-9]+)?(/[A-Za-z0-9._-]+)*|http://(127\.0\.0\.1|localhost)(:[0-9]+)?' \
    "set it to the stack's output ApiUrl, https://..."
  need TARGET '(orgs|enterprises)/[a-z0-9][a-z0-9_-]*|repos/[a-z0-9][a-z0-9_-]*/[a-z0-9._-]+' \
    'set it to orgs/ORG, repos/OWNER/REPOSITORY or enterprises/ENTERPRISE, in lower case'
  need REGION '[a-z]{2}(-[a-z]+)+-[0-9]+' "set it to the API's AWS region, such as eu-central-1"
  need RUNNER_LABELS '|[^,[:space:]]+(,[^,[:space:]]+)*' 'set it to labels separated by commas, without spaces'
  need RUNNER_EPHEMERAL 'true|false' 'set it to true or false'
  need RUNNER_VERSION '|[0-9]+\.[0-9]+\.[0-9]+' 'set it to a version such as 2.330.0, or leave it empty'
  need RUNNER_SHA256 '|[0-9a-f]{64}' 'set it to 64 hexadecimal digits, or leave it empty'
  need RUNNER_USER '[a-z_][a-z0-9_-]*' 'set it to a name for a user'
  need RUNNER_DIR '/[A-Za-z0-9._/-]+' 'set it to an absolute path without spaces'
  need HOOK_DIR '/[A-Za-z0-9._/-]+' 'set it to an absolute path without spaces'
  need SIGNER 'auto|curl|openssl' 'set it to auto, curl or openssl'
  local name
  for name in RUNNER_TOKEN_TIMEOUT CREDENTIALS_TIMEOUT CLOCK_TIMEOUT RETRY_MS; do
    need "$name" '[1-9][0-9]{0,5}' 'set it to a whole number above 0'
  done
  [[ -z $RUNNER_SHA256 || -n $RUNNER_VERSION ]] || die 2 'RUNNER_VERSION is not set: RUNNER_SHA256 is of one version, say of which'
  if [[ $mode == run && $EUID != 0 && $RUNNER_USER != "$(id -un)" ]]; then
    die 2 'RUNNER_USER is another user: run this as root, as user data does'
  fi
  if [[ $mode == run && $RUNNER_EPHEMERAL == false && ! -f $0 ]]; then
    die 2 'RUNNER_EPHEMERAL is false: run this from a file, which the shutdown hook needs a copy of'
  fi
}

pause() { sleep "$(($1 / 1000)).$(printf %03d $(($1 % 1000)))"; } # milliseconds
jitter() { echo $(((RANDOM * 32768 + RANDOM) % ($1 + 1))); }

# imds PATH; the session token goes by stdin, as every secret here: arguments are for all to see, and before bash 5.1 a
# here-document is a file.
imds() {
  printf 'header = "X-aws-ec2-metadata-token: %s"\n' "$imds_token" |
    curl -qsf --noproxy '*' --connect-timeout 2 --max-time 5 -K - "$IMDS_URL/latest/meta-data/$1"
}

field() { sed -n "s/.*\"$1\" *: *\"\([^\"]*\)\".*/\1/p" <<<"$2" | head -n 1; }
secret_field() { printf '%s\n' "$2" | sed -n "s/.*\"$1\" *: *\"\([^\"]*\)\".*/\1/p"; } # no here-string: see imds

read_credentials() {
  local role
  imds_token=$(curl -qsf --noproxy '*' --connect-timeout 2 --max-time 5 -X PUT \
    -H 'X-aws-ec2-metadata-token-ttl-seconds: 300' "$IMDS_URL/latest/api/token") && [[ -n $imds_token ]] || return
  role=$(imds iam/security-credentials/) && role=${role%%$'\n'*} && [[ -n $role ]] || return
  creds=$(imds "iam/security-credentials/$role") || return
  access_key=$(secret_field AccessKeyId "$creds") secret_key=$(secret_field SecretAccessKey "$creds")
  session_token=$(secret_field Token "$creds") creds=
  [[ $access_key$secret_key$session_token =~ ^[A-Za-z0-9/+=_-]+$ && -n $access_key && -n $secret_key ]]
}

wait_for_credentials() { # at boot they are late
  local end=$((SECONDS + CREDENTIALS_TIMEOUT))
  until read_credentials; do
    ((SECONDS < end)) || die 3 "no role credentials from $IMDS_URL after $CREDENTIALS_TIMEOUT s:" \
      'attach an instance profile; in a container set the hop limit of IMDSv2 to 2'
    pause "$RETRY_MS"
  done
}

# A signature is good for five minutes. The time to agree with is the API's, from any answer of it.
wait_for_clock() {
  local end=$((SECONDS + CLOCK_TIMEOUT)) date theirs off
  while :; do
    date=$(curl -qsI --connect-timeout 5 --max-time 10 "$API_URL" | sed -n 's/^[Dd]ate: *\([^\r]*\).*/\1/p') || date=
    theirs=$(date -u -d "${date:-invalid}" +%s 2>/dev/null) || return 0 # unknown: the signed request will tell
    off=$(($(date +%s) - theirs))
    ((${off#-} > 120)) || return 0
    ((SECONDS < end)) || die 4 "the clock is off by $off s after $CLOCK_TIMEOUT s:" \
      'make chrony or systemd-timesyncd reach a time server (Amazon: 169.254.169.123)'
    log "the clock is off by $off s, waiting"
    pause "$RETRY_MS"
  done
}

# --- signer: POSIX sh and openssl, for curl without a good --aws-sigv4. It hashes only, and does the rest of HMAC
# itself: openssl takes a key only as an argument.
sha256() { openssl dgst -sha256 -r | cut -c1-64; }
hex() { od -An -v -tx1 | tr -d ' \n'; }
octal() { # octal HEX MASK: HEX with each byte xor-ed, as printf's escapes, in $escapes; no process is started
  h=$1 escapes=
  while [ -n "$h" ]; do
    tail=${h#??}
    byte=$((0x${h%"$tail"} ^ $2))
    escapes=$escapes\\$((byte / 64))$((byte / 8 % 8))$((byte % 8))
    h=$tail
  done
}
hmac() { # hmac HEXKEY MESSAGE
  key=$1
  # shellcheck disable=SC2059 # the format is the bytes, here and below
  [ ${#key} -le 128 ] || { octal "$key" 0; key=$(printf "$escapes" | sha256); }
  while [ ${#key} -lt 128 ]; do key=${key}00; done
  octal "$key" 0x36; inner_pad=$escapes
  octal "$key" 0x5c; outer_pad=$escapes
  # shellcheck disable=SC2059
  inner=$({ printf "$inner_pad"; printf %s "$2"; } | sha256)
  octal "$inner" 0
  # shellcheck disable=SC2059
  printf "$outer_pad$escapes" | sha256
}
authorization() { # authorization HOST PATH REGION YYYYMMDDTHHMMSSZ KEY SECRET TOKEN: the header of a POST of nothing
  names='host;x-amz-date' headers="host:$1
x-amz-date:$4
"
  [ -z "$7" ] || { names="$names;x-amz-security-token"; headers="${headers}x-amz-security-token:$7
"; }
  request="POST
$2

$headers
$names
$(printf '' | sha256)"
  scope="${4%T*}/$3/execute-api/aws4_request"
  k=$(printf 'AWS4%s' "$6" | hex)
  for part in "${4%T*}" "$3" execute-api aws4_request; do k=$(hmac "$k" "$part"); done
  signature=$(hmac "$k" "AWS4-HMAC-SHA256
$4
$scope
$(printf %s "$request" | sha256)")
  printf 'AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=%s, Signature=%s' "$5" "$scope" "$names" "$signature"
}
# --- end of signer

choose_signer() {
  local help major minor
  [[ $SIGNER == auto ]] || return 0
  SIGNER=openssl
  help=$(curl -q --help all 2>/dev/null) || help=
  IFS=' .' read -r _ major minor _ < <(curl -q --version)
  # From 7.75 curl had the option, but did not sign the session token.
  if [[ $help == *--aws-sigv4* ]] && ((major * 1000 + minor >= 7086)); then SIGNER=curl; fi
  [[ $SIGNER == curl ]] || command -v openssl >/dev/null || die 2 'SIGNER cannot be chosen: install openssl or curl 7.86'
}

# post KIND SECONDS makes one signed request and prints what came, headers and all, then the status on a line of its own.
post() {
  local rest host path now sign=()
  rest=${API_URL#*://} host=${rest%%/*}
  path=${rest#"$host"}/$TARGET/actions/runners/$1
  [[ $SIGNER == openssl ]] || sign=(--aws-sigv4 "aws:amz:$REGION:execute-api")
  {
    if [[ $SIGNER == curl ]]; then
      printf 'user = "%s:%s"\n' "$access_key" "$secret_key"
    else
      now=$(date -u +%Y%m%dT%H%M%SZ)
      printf 'header = "x-amz-date: %s"\nheader = "authorization: %s"\n' "$now" \
        "$(authorization "$host" "$path" "$REGION" "$now" "$access_key" "$secret_key" "$session_token")"
    fi
    # Only if there is one: some versions of curl sign an empty header and do not send it.
    [[ -z $session_token ]] || printf 'header = "x-amz-security-token: %s"\n' "$session_token"
  } | curl -qsSi --suppress-connect-headers --connect-timeout 5 --max-time "$2" -K - "${sign[@]}" -d '' \
    -w '\n%{http_code}' "$API_URL/$TARGET/actions/runners/$1"
}

remedy() { # remedy STATUS CODE
  case $2 in
    InvalidRequest) echo 'check TARGET: lower case, as GitHub has it' ;;
    CallerNotAuthenticated) echo 'operator: a route has lost its authorizer, deploy the template again' ;;
    TargetNotAllowed) echo "operator: add $TARGET to AllowedTargets, or correct TARGET" ;;
    TargetNotFound) echo 'check the spelling of TARGET and whether it was renamed; operator: can the PAT administer it?' ;;
    CredentialMissing) echo 'operator: put the PAT into the secret, and let the function read it (role, KMS key)' ;;
    CredentialRejected) echo 'operator: the PAT expired or was revoked, put a new one into the secret' ;;
    CredentialForbidden) echo "operator: the PAT's scope, permission, SSO or token policy; the function's log names it" ;;
    RateLimited) echo "GitHub's limit: wait; operator: another PAT owner, or fewer callers" ;;
    Unavailable) echo 'GitHub or Secrets Manager is down: wait' ;;
    ?*) echo "operator: look for the request_id in the function's log" ;;
    *) case $1 in
      403) echo "API Gateway refused, not the service: the role needs execute-api:Invoke on exactly this path" \
        "(caller policy), REGION must be the API's, the clock right, and API_URL the stack's output" ;;
      404) echo "API Gateway has no such path: set API_URL to the stack's output ApiUrl" ;;
      429) echo "the stage's throttle: start fewer instances at once, or raise it" ;;
      *) echo 'check API_URL, and the network between here and it' ;;
    esac ;;
  esac
}

# fetch KIND leaves the answer in $token and $runner_url. Credentials and signature are new for each try.
fetch() {
  local end=$((SECONDS + RUNNER_TOKEN_TIMEOUT)) wait=$RETRY_MS left status code body error retry ms
  while :; do
    left=$((end - SECONDS)) retry='' status='' code='' error=0
    ((left > 0)) || left=1
    if ! read_credentials; then
      error='no role credentials' ms=$(((wait + $(jitter "$wait")) / 2))
    else
      answer=$(post "$1" "$((left < 35 ? left : 35))") || error="curl's error $?"
      status=${answer##*$'\n'} body=${answer#*$'\r\n\r\n'}
      if [[ $error == 0 && $status =~ ^20[01]$ ]]; then
        token=$(secret_field token "$body") runner_url=$(secret_field runner_url "$body") answer='' body=''
        [[ $token =~ ^[A-Za-z0-9_-]+$ && $runner_url =~ ^https?://[^[:space:]]+$ ]] ||
          die 5 'the answer has no token: is API_URL the URL of this service?'
        return
      fi
      code=$(field code "$body")
      case $error/$status/$code in
        0/429/* | 0/50[34]/* | 0/50[02]/) ;;
        # Names, connecting, timeouts, answers cut off: the network. Certificates and the rest stay as they are.
        *\ [5-7]/* | *\ 1[68]/* | *\ 28/* | *\ 35/* | *\ 5[256]/* | *\ 9[256]/*) status='' code='' ;;
        0/*) die 5 "refused: $status ${code:-without a code}: $(field message "$body"). Remedy: $(remedy "$status" "$code")" ;;
        *) die 5 "$error. Remedy: $(remedy '' '')" ;;
      esac
      retry=$(sed -n '/^\r*$/q; s/^[Rr][Ee][Tt][Rr][Yy]-[Aa][Ff][Tt][Ee][Rr]: *\([0-9]\{1,6\}\)\r*$/\1/p' <<<"$answer")
      if [[ -n $retry ]]; then
        ms=$((10#$retry * 1000 + $(jitter "$RETRY_MS"))) # never before it
      else
        ms=$(((wait + $(jitter "$wait")) / 2))
      fi
      [[ $error != 0 ]] || error="$status ${code:-without a code}"
    fi
    ((SECONDS + (ms + 999) / 1000 <= end)) || die 6 "no token within RUNNER_TOKEN_TIMEOUT=$RUNNER_TOKEN_TIMEOUT s: $error. Remedy: $(remedy "$status" "$code")"
    log "no token yet: $error; next try in $ms ms"
    pause "$ms"
    wait=$((wait * 2 < 20000 ? wait * 2 : 20000))
  done
}

as_runner() { # the environment goes on, without an argument
  if [[ $RUNNER_USER == "$(id -un)" ]]; then "$@"; else HOME=$RUNNER_DIR runuser -u "$RUNNER_USER" -- "$@"; fi
}

install_runner() {
  local arch release package sum get=(curl -qsSfL --retry 5 --retry-delay 2 --connect-timeout 10)
  [[ ! -e $RUNNER_DIR/.runner ]] || die 7 "there is a runner in $RUNNER_DIR already: remove it, or set RUNNER_DIR"
  case $(uname -m) in
    x86_64) arch=x64 ;;
    aarch64) arch=arm64 ;;
    *) die 7 "GitHub has no runner for $(uname -m)" ;;
  esac
  sum=$RUNNER_SHA256
  if [[ -z $sum ]]; then
    release=$("${get[@]}" "$RELEASES_URL/${RUNNER_VERSION:+tags/v}${RUNNER_VERSION:-latest}") ||
      die 7 "no release of the runner from $RELEASES_URL: set RUNNER_VERSION and RUNNER_SHA256 if GitHub limits this address"
    RUNNER_VERSION=$(field tag_name "$release")
    RUNNER_VERSION=${RUNNER_VERSION#v}
    sum=$(sed -n "s/.*BEGIN SHA linux-$arch -->\([0-9a-f]\{64\}\)<.*/\1/p" <<<"$release")
    [[ $RUNNER_VERSION =~ ^[0-9.]+$ && -n $sum ]] || die 7 'the release names no version or no checksum: set RUNNER_VERSION and RUNNER_SHA256'
  fi
  package=actions-runner-linux-$arch-$RUNNER_VERSION.tar.gz
  work=$(mktemp -d)
  "${get[@]}" -o "$work/$package" "$DOWNLOAD_URL/v$RUNNER_VERSION/$package" || die 7 "no package from $DOWNLOAD_URL"
  printf '%s  %s\n' "$sum" "$work/$package" | sha256sum --check --status || die 7 "the checksum of $package is wrong: nothing of it was used"
  id "$RUNNER_USER" >/dev/null 2>&1 || useradd --system --home-dir "$RUNNER_DIR" --no-create-home --shell /bin/bash "$RUNNER_USER"
  mkdir -p "$RUNNER_DIR"
  tar -xzf "$work/$package" -C "$RUNNER_DIR" --no-same-owner
  rm -r "$work"
  work=
  [[ $EUID != 0 ]] || chown -R "$RUNNER_USER:" "$RUNNER_DIR"
  cd "$RUNNER_DIR"
  if ! ldconfig -p 2>/dev/null | grep libicu >/dev/null; then # .NET needs it, and Amazon Linux 2023 comes without
    if command -v dnf >/dev/null; then dnf -qy install libicu >&2; else ./bin/installdependencies.sh >&2; fi ||
      die 7 'the libraries that the runner needs cannot be installed'
  fi
}

configure_runner() {
  local name args
  name=$(imds instance-id) || name=
  [[ -n $name ]] || die 3 "no instance id from $IMDS_URL"
  args=(--unattended --replace --url "$runner_url" --name "$name")
  [[ $RUNNER_EPHEMERAL == false ]] || args+=(--ephemeral)
  [[ -z $RUNNER_LABELS ]] || args+=(--labels "$RUNNER_LABELS")
  [[ -z $RUNNER_GROUP ]] || args+=(--runnergroup "$RUNNER_GROUP")
  ACTIONS_RUNNER_INPUT_TOKEN=$token as_runner ./config.sh "${args[@]}" >&2 || die 8 'config.sh failed: see above, and _diag'
  unset token access_key secret_key session_token # before a job can start
}

# The unit does nothing but be stopped: when the instance shuts down, while the network is still there.
install_hook() {
  local name
  mkdir -p "$HOOK_DIR"
  install -m 700 "$script" "$HOOK_DIR/linux.sh"
  for name in API_URL TARGET REGION RUNNER_USER RUNNER_DIR IMDS_URL SIGNER HOOK_DIR; do
    printf '%s=%s\n' "$name" "${!name}"
  done >"$HOOK_DIR/settings"
  cat >"$UNIT_DIR/github-runner-remove.service" <<EOF
[Unit]
Description=Remove the GitHub runner when the instance stops
Wants=network-online.target
After=network-online.target

[Service]
Type=oneshot
RemainAfterExit=yes
EnvironmentFile=$HOOK_DIR/settings
Environment=RUNNER_TOKEN_TIMEOUT=20 CREDENTIALS_TIMEOUT=5 CLOCK_TIMEOUT=1
ExecStart=/bin/true
ExecStop=$HOOK_DIR/linux.sh --remove
TimeoutStopSec=90

[Install]
WantedBy=multi-user.target
EOF
  systemctl daemon-reload
  systemctl enable --now github-runner-remove.service >&2
}

mode=run
case ${1-} in
  '') ;;
  --token-only) mode=token ;;
  --remove) mode=remove ;;
  *) die 2 "unknown argument: --token-only, --remove or none" ;;
esac
work=
trap '[[ -z $work ]] || rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
script=$(realpath "$0" 2>/dev/null) || script=$0
check_settings
choose_signer
wait_for_clock
wait_for_credentials
case $mode in
  token)
    fetch registration-token
    printf '%s\n' "$token"
    ;;
  remove)
    cd "$RUNNER_DIR"
    ./svc.sh stop >&2 || log 'the service did not stop'
    ./svc.sh uninstall >&2 || log 'the service was not uninstalled' # config.sh removes no runner that is a service
    fetch remove-token
    ACTIONS_RUNNER_INPUT_TOKEN=$token as_runner ./config.sh remove >&2 || die 8 'config.sh remove failed'
    ;;
  run)
    install_runner
    fetch registration-token # last, since it may be an hour old at most and everything before takes its time
    configure_runner
    if ! { ./svc.sh install "$RUNNER_USER" && ./svc.sh start; } >&2; then die 8 'the service did not start'; fi
    [[ $RUNNER_EPHEMERAL == true ]] || install_hook
    log 'the runner is registered and its service started'
    ;;
esac
