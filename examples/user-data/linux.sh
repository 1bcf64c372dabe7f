#!/usr/bin/env bash
# EC2 user data: turns the instance into a GitHub Actions runner. For Amazon Linux 2023, Ubuntu 22.04 and 24.04, Debian 12.
# Copy it into a launch template, set the three variables, attach the caller policy (output CallerPolicyArn) to the role.
# linux.sh --token-only prints a registration token and does nothing else.
#
# Its log is /var/log/cloud-init-output.log. docs/user-data.md explains its exit status. EC2 takes 16 KiB at most.
set +x -euo pipefail # no trace, even under bash -x: it would print the token
umask 077
# If one of these came from the environment, every child would get its new value.
unset answer body creds token access_key secret_key session_token imds_token k key h escapes inner_pad outer_pad

: "${API_URL:=}" # required: the stack's output ApiUrl
: "${TARGET:=}"  # required: orgs/acme, repos/acme/widgets or enterprises/acme-corp
: "${REGION:=}"  # required: the API's Region, eu-central-1

: "${RUNNER_LABELS:=}"        # more labels, separated by commas
: "${RUNNER_GROUP:=}"         # the default group if empty
: "${RUNNER_EPHEMERAL:=true}" # one job. false: leaves when the instance stops, joins when it starts
: "${RUNNER_VERSION:=}"       # 2.330.0; the newest if empty. GitHub gives no jobs to old ones
: "${RUNNER_SHA256:=}"        # of the package: with RUNNER_VERSION set too, GitHub's API is not asked
: "${RUNNER_USER:=github-runner}"
: "${RUNNER_DIR:=/opt/actions-runner}"
: "${RUNNER_TOKEN_TIMEOUT:=300}" # seconds to go on asking for the token

# Other places to fetch from and to write to: mirrors, tests.
: "${IMDS_URL:=http://169.254.169.254}"
: "${RELEASES_URL:=https://api.github.com/repos/actions/runner/releases}"
: "${DOWNLOAD_URL:=https://github.com/actions/runner/releases/download}"
: "${HOOK:=/usr/local/sbin/github-runner}"
: "${UNIT:=/etc/systemd/system/github-runner.service}"

log() { printf 'runner: %s\n' "$@" >&2; }
die() { log "${@:2}"; said=x; exit "$1"; }

need() { # need VARIABLE PATTERN WHAT
  [[ ! ${!1} =~ ^($2)$ ]] || return 0
  if [[ -n ${!1} ]]; then bad+=("$1 is malformed: set it to $3"); else bad+=("$1 is not set: set it to $3"); fi
}

check_settings() {
  local bad=()
  API_URL=${API_URL%/}
  need API_URL 'https://[A-Za-z0-9.-]+(:[0-9]+)?(/[A-Za-z0-9._-]+)*|http://(127\.0\.0\.1|localhost)(:[0-9]+)?' \
    "the stack's output ApiUrl, https://..."
  need TARGET '(orgs|enterprises)/[a-z0-9][a-z0-9_-]*|repos/[a-z0-9][a-z0-9_-]*/[a-z0-9._-]+' \
    'orgs/ORG, repos/OWNER/REPOSITORY or enterprises/ENTERPRISE, in lower case'
  need REGION '[a-z]{2}(-[a-z]+)+-[0-9]+' "the API's AWS Region, such as eu-central-1"
  # " \ and % would mean something in the unit
  need RUNNER_LABELS '|[^[:space:],"\%]+(,[^[:space:],"\%]+)*' 'labels separated by commas, without spaces'
  need RUNNER_GROUP '[^"\%[:cntrl:]]*' 'the name of a runner group'
  need RUNNER_EPHEMERAL 'true|false' 'true or false'
  need RUNNER_VERSION '|[0-9]+\.[0-9]+\.[0-9]+' 'a version such as 2.330.0'
  need RUNNER_USER '[a-z_][a-z0-9_-]*' 'a name for a user'
  need RUNNER_DIR '/[A-Za-z0-9._/-]+' 'an absolute path without spaces'
  need RUNNER_TOKEN_TIMEOUT '[1-9][0-9]{0,4}' 'a number of seconds'
  if [[ $mode == run ]]; then
    [[ $EUID == 0 || $RUNNER_USER == "$(id -un)" ]] || bad+=('RUNNER_USER is another user: run this as root')
    [[ $RUNNER_EPHEMERAL == true || -f $0 ]] || bad+=('RUNNER_EPHEMERAL is false: run this from a file, to be kept')
  fi
  if ((${#bad[@]})); then die 2 "${bad[@]}"; fi
}

# Secrets go to curl by stdin: all users see arguments, and before bash 5.1 a here-document is a file.
imds() { # imds PATH [OPTION ...]
  local path=$1; shift
  printf 'header = "X-aws-ec2-metadata-token: %s"\n' "$imds_token" |
    curl -qsf --noproxy '*' --connect-timeout 2 --max-time 5 -K - "$@" "$IMDS_URL/latest/$path"
}

field() { printf '%s\n' "$2" | sed -n "s/.*\"$1\" *: *\"\([^\"]*\)\".*/\1/p"; } # field NAME JSON
header() { printf '%s\n' "$2" | sed -n "1,/^\r*$/s/^$1: *\([^\r]*\)\r*$/\1/Ip"; } # header NAME ANSWER

read_credentials() {
  local role iam=meta-data/iam/security-credentials
  imds_token=''
  imds_token=$(imds api/token -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 300') && role=$(imds $iam/) &&
    creds=$(imds "$iam/${role%%$'\n'*}") || return
  access_key=$(field AccessKeyId "$creds") secret_key=$(field SecretAccessKey "$creds") session_token=$(field Token "$creds")
  [[ $access_key$secret_key$session_token =~ ^[A-Za-z0-9/+=_-]+$ && -n $access_key && -n $secret_key ]]
}

# --- signer: POSIX sh and openssl, for curl without a good --aws-sigv4. HMAC is done
# here: openssl takes keys as arguments only.
sha256() { openssl dgst -sha256 -r | cut -c1-64; }
octal() { # octal HEX MASK: HEX with each byte xor-ed, as printf's escapes, in $escapes
  h=$1 escapes=
  while [ -n "$h" ]; do
    tail=${h#??}
    byte=$((0x${h%"$tail"} ^ $2))
    escapes=$escapes\\$((byte / 64))$((byte / 8 % 8))$((byte % 8))
    h=$tail
  done
}
# shellcheck disable=SC2059 # the format is the bytes
hmac() { # hmac HEXKEY MESSAGE
  key=$1
  [ ${#key} -le 128 ] || { octal "$key" 0; key=$(printf "$escapes" | sha256); }
  while [ ${#key} -lt 128 ]; do key=${key}00; done
  octal "$key" 0x36; inner_pad=$escapes
  octal "$key" 0x5c; outer_pad=$escapes
  octal "$({ printf "$inner_pad"; printf %s "$2"; } | sha256)" 0
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
  k=$(printf 'AWS4%s' "$6" | od -An -v -tx1 | tr -d ' \n')
  for part in "${4%T*}" "$3" execute-api aws4_request; do k=$(hmac "$k" "$part"); done
  signature=$(hmac "$k" "AWS4-HMAC-SHA256
$4
$scope
$(printf %s "$request" | sha256)")
  printf 'AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=%s, Signature=%s' "$5" "$scope" "$names" "$signature"
}
# --- end of signer

choose_signer() {
  signer=curl
  # From 7.75 curl had the option, but did not sign the session token.
  [[ $(curl -q --help all 2>&1) == *--aws-sigv4* && $(curl -q --version) =~ ^curl\ (7\.(8[6-9]|9)|[89]|1[0-9]) ]] && return
  signer=openssl
  command -v openssl >/dev/null || die 2 'openssl is missing: install it, or curl 7.86'
}

# post KIND SECONDS makes one signed request, and prints headers, body and, on a line of its own, the status.
post() {
  local url=$API_URL/$TARGET/actions/runners/$1 host path now sign=()
  path=/${url#*://*/} host=${url#*://} host=${host%%/*}
  [[ $signer == openssl ]] || sign=(--aws-sigv4 "aws:amz:$REGION:execute-api")
  {
    if [[ $signer == curl ]]; then
      printf 'user = "%s:%s"\n' "$access_key" "$secret_key"
    else
      now=$(date -u +%Y%m%dT%H%M%SZ)
      printf 'header = "x-amz-date: %s"\nheader = "authorization: %s"\n' "$now" \
        "$(authorization "$host" "$path" "$REGION" "$now" "$access_key" "$secret_key" "$session_token")"
    fi
    # Some versions of curl sign an empty header and do not send it.
    [[ -z $session_token ]] || printf 'header = "x-amz-security-token: %s"\n' "$session_token"
  } | curl -qsSi --suppress-connect-headers --connect-timeout 5 --max-time "$2" -K - "${sign[@]}" -d '' \
    -w '\n%{http_code}' "$url"
}

remedy() { # remedy CAUSE: a code of the service, a status of API Gateway, or a word
  case $1 in
    credentials) echo 'attach an instance profile; in a container set the hop limit of IMDSv2 to 2' ;;
    clock) echo 'let chrony or systemd-timesyncd reach a time server (Amazon: 169.254.169.123)' ;;
    InvalidRequest) echo 'check TARGET: lower case, as GitHub has it' ;;
    TargetNotAllowed) echo "operator: add $TARGET to AllowedTargets, or correct TARGET" ;;
    TargetNotFound) echo 'check the spelling of TARGET, and whether it was renamed; operator: can the PAT administer it?' ;;
    CredentialMissing) echo 'operator: put the PAT into the secret; may the function read it (role, KMS key)?' ;;
    CredentialRejected) echo 'operator: the PAT expired or was revoked, put a new one into the secret' ;;
    CredentialForbidden) echo "operator: the PAT's scope, permission, SSO or policy; the function's log names it" ;;
    RateLimited) echo "wait; operator: fewer callers for one PAT" ;;
    Unavailable) echo 'wait: GitHub or Secrets Manager is down' ;;
    [A-Z]*) echo "operator: the README has the code, the function's log the request_id" ;;
    403) echo "API Gateway refused, not the service: let the role execute-api:Invoke exactly this path (caller policy);" \
      "REGION must be the API's, API_URL the stack's output" ;;
    404) echo "API Gateway has no such path: API_URL must be the stack's output" ;;
    429) echo "the stage's throttle: start fewer at once, or raise it" ;;
    *) echo 'check API_URL, the network between here and it, and the clock' ;;
  esac
}

uptime() { # in seconds; somebody may set the clock, and so $SECONDS
  local up; read -r up _ </proc/uptime
  echo "${up%.*}"
}

# fetch KIND sets $token and $runner_url. Each try has a new signature, by the current credentials.
fetch() {
  local end wait=2 left signed curl status code cause why after theirs off nap
  end=$(($(uptime) + RUNNER_TOKEN_TIMEOUT))
  while :; do
    left=$((end - $(uptime))) curl=0 after=0 cause=credentials why='no role credentials'
    if read_credentials; then
      signed=$(date +%s)
      answer=$(post "$1" $((left < 1 ? 1 : left < 35 ? left : 35))) || curl=$?
      status=${answer##*$'\n'} body=${answer#*$'\r\n\r\n'}
      if [[ $curl/$status == 0/20[01] ]]; then
        token=$(field token "$body") runner_url=$(field runner_url "$body")
        [[ $token =~ ^[A-Za-z0-9_-]+$ && $runner_url =~ ^https?://[^[:space:]]+$ ]] ||
          die 5 'the answer has no token: is API_URL the URL of this service?'
        return
      fi
      code=$(field code "$body") cause=${code:-$status} why="$status ${code:-without a code}: $(field message "$body")"
      ((curl == 0)) || status='' code='' cause=network why="curl's error $curl"
      case $curl/$status/$code in
        0/429/* | 0/50[34]/* | 0/50[02]/) after=$(header retry-after "$answer") ;;
        # The network: names, connecting, timeouts, answers cut off. Not certificates: waiting does not help.
        [5-7]/* | 1[68]/* | 28/* | 35/* | 5[256]/* | 9[256]/*) ;;
        *)
          theirs=$(header date "$answer")
          off=$((signed - $(date -d "${theirs:-now}" +%s)))
          if [[ $cause != 403 ]] || ((${off#-} < 120)); then die 5 "refused: $why. Remedy: $(remedy "$cause")"; fi
          cause=clock why="the clock is off by $off s" # a signature is good for five minutes
          ;;
      esac
    fi
    left=$((end - $(uptime)))
    if [[ $after =~ ^[0-9]{1,5}$ ]]; then after=$((10#$after)); else after=0; fi
    nap=$((after ? after + RANDOM % (after / 4 + 2) : wait / 2 + RANDOM % (wait / 2 + 1))) # not all at once
    ((nap < left)) || nap=$left
    if ((left < 1 || nap < after)); then
      case $cause in credentials) status=3 ;; clock) status=4 ;; *) status=6 ;; esac
      die "$status" "no token within RUNNER_TOKEN_TIMEOUT=$RUNNER_TOKEN_TIMEOUT s: $why. Remedy: $(remedy "$cause")"
    fi
    log "no token yet: $why; next try in $nap s"
    sleep "$nap.$((RANDOM % 10))"
    wait=$((wait < 10 ? wait * 2 : 20))
  done
}

as_runner() { # by the environment: all users see arguments
  if [[ $RUNNER_USER == "$(id -un)" ]]; then "$@"; else HOME=$RUNNER_DIR runuser -u "$RUNNER_USER" -- "$@"; fi
}

get() { curl -qsSfL --retry 5 --retry-delay 2 --retry-max-time 120 --connect-timeout 10 --speed-limit 1000 --speed-time 30 "$@"; }

install_runner() {
  local arch release package sum=$RUNNER_SHA256
  [[ -z $(ls -A "$RUNNER_DIR" 2>/dev/null) ]] || die 7 "$RUNNER_DIR is not empty: empty it, or set RUNNER_DIR"
  arch=$(uname -m | sed 's/x86_64/x64/; s/aarch64/arm64/')
  if [[ -z $sum || -z $RUNNER_VERSION ]]; then
    release=$(get "$RELEASES_URL/${RUNNER_VERSION:+tags/v}${RUNNER_VERSION:-latest}") || release=
    RUNNER_VERSION=$(field tag_name "$release")
    RUNNER_VERSION=${RUNNER_VERSION#v}
    sum=${sum:-$(printf '%s\n' "$release" | sed -n "s/.*BEGIN SHA linux-$arch -->\([0-9a-f]\{64\}\)<.*/\1/p")}
    [[ $RUNNER_VERSION =~ ^[0-9.]+$ && -n $sum ]] ||
      die 7 "no release with a checksum from $RELEASES_URL: set RUNNER_VERSION and RUNNER_SHA256"
  fi
  package=actions-runner-linux-$arch-$RUNNER_VERSION.tar.gz
  work=$(TMPDIR=${TMPDIR:-/var/tmp} mktemp -d) # /tmp may be memory
  get -o "$work/$package" "$DOWNLOAD_URL/v$RUNNER_VERSION/$package" || die 7 "no package from $DOWNLOAD_URL"
  printf '%s  %s\n' "$sum" "$work/$package" | sha256sum --check --status || die 7 "the checksum of $package is wrong: not used"
  id "$RUNNER_USER" >/dev/null 2>&1 || useradd --system --home-dir "$RUNNER_DIR" --shell /bin/bash "$RUNNER_USER"
  (umask 022 && mkdir -p "$RUNNER_DIR")
  tar -xzf "$work/$package" -C "$RUNNER_DIR" --no-same-owner
  rm -r "$work"
  [[ $EUID != 0 ]] || chown -R "$RUNNER_USER:" "$RUNNER_DIR"
  cd "$RUNNER_DIR"
  if ! ldconfig -p 2>/dev/null | grep libicu >/dev/null; then # .NET needs it, and Amazon Linux 2023 lacks it
    if command -v dnf >/dev/null; then dnf -qy install libicu >&2; else ./bin/installdependencies.sh >&2; fi ||
      die 7 'libicu, which the runner needs, cannot be installed'
  fi
}

register() {
  local name once=()
  [[ ! -e .runner ]] || return 0 # the instance stopped without leaving
  fetch registration-token # last: it is good for an hour at most
  name=$(imds meta-data/instance-id) || die 3 "no instance id from $IMDS_URL"
  [[ $RUNNER_EPHEMERAL == false ]] || once=(--ephemeral)
  ACTIONS_RUNNER_INPUT_TOKEN=$token as_runner ./config.sh --unattended --replace --url "$runner_url" --name "$name" \
    "${once[@]}" ${RUNNER_LABELS:+--labels "$RUNNER_LABELS"} ${RUNNER_GROUP:+--runnergroup "$RUNNER_GROUP"} >&2 ||
    die 8 'config.sh failed: see above, and _diag'
}

# From here on jobs can write to RUNNER_DIR: root runs nothing there.
remove() {
  RUNNER_TOKEN_TIMEOUT=20 # the shutdown waits
  as_runner rm -f .service # config.sh refuses to remove a service
  fetch remove-token
  ACTIONS_RUNNER_INPUT_TOKEN=$token as_runner ./config.sh remove >&2 || die 8 'config.sh remove failed'
}

install_unit() {
  local name
  install -m 700 "$script" "$HOOK"
  {
    cat <<END
[Unit]
Description=Register the GitHub runner, and remove it when the instance stops
Wants=network-online.target
After=network-online.target
# Started before it, and so stopped after it.
Before=$(<.service)

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=$HOOK --register
ExecStop=$HOOK --remove
TimeoutStopSec=60
END
    for name in API_URL TARGET REGION RUNNER_{LABELS,GROUP,EPHEMERAL,USER,DIR} IMDS_URL; do
      printf 'Environment="%s=%s"\n' "$name" "${!name}"
    done
    printf '\n[Install]\nWantedBy=multi-user.target\n'
  } | install -m 644 /dev/stdin "$UNIT"
  systemctl daemon-reload
  systemctl enable --now "${UNIT##*/}" >&2
}

mode=run
case ${1-} in
  '') ;;
  --token-only | --register | --remove) mode=${1#--} ;; # the last two are the unit's
  *) die 2 'unknown argument: --token-only or none' ;;
esac
work='' said=''
finish() {
  local status=$?
  [[ -z $work ]] || rm -rf "$work"
  ((status == 0)) || [[ -n $said ]] || die 1 "a command failed with $status: see above"
}
trap finish EXIT
check_settings
choose_signer
case $mode in
  token-only)
    fetch registration-token
    printf '%s\n' "$token"
    ;;
  register | remove)
    cd "$RUNNER_DIR"
    "$mode"
    ;;
  run)
    script=$(realpath "$0")
    install_runner
    register
    ./svc.sh install "$RUNNER_USER" >&2 || die 8 'svc.sh install failed'
    [[ $RUNNER_EPHEMERAL == true ]] || install_unit
    ./svc.sh start >&2 || die 8 'svc.sh start failed'
    log 'the runner is registered and its service started'
    ;;
esac
