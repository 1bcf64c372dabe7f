#!/usr/bin/env bash
# --- linux.sh
# EC2 user data: turns the instance into a GitHub Actions runner, and switches it off after the runner's one job.
# For Amazon Linux 2023, Ubuntu 22.04 and 24.04, Debian 12.
#
# make user-data packs it with your settings. Attach the caller policy (output CallerPolicyArn) to the instance's role.
# linux.sh --token-only prints a registration token and does nothing else.
# Its log is /var/log/cloud-init-output.log. docs/user-data.md explains its exit status.

# A trace would print the token, allexport would give the role's keys to every child, and so would one of these names
# in the environment.
set +x +a -euo pipefail
export -n SHELLOPTS
umask 077
unset answer body creds session token access_key secret_key session_token imds_token k key h escapes inner_pad outer_pad

: "${API_URL:=}" # required: the stack's output ApiUrl
: "${TARGET:=}"  # required: orgs/acme, repos/acme/widgets or enterprises/acme-corp
: "${REGION:=}"  # required: the API's Region, eu-central-1

: "${RUNNER_LABELS:=}" # more labels, separated by commas
: "${RUNNER_GROUP:=}"  # the default group if empty
: "${RUNNER_EPHEMERAL:=true}" # one job. false: leaves when the instance stops, joins when it starts
: "${RUNNER_AFTER_JOB:=poweroff}" # of an ephemeral runner. stay: the instance runs on
: "${RUNNER_IDLE_TIMEOUT:=0}" # seconds without a job, until the runner leaves and the instance goes off. 0: never
: "${RUNNER_VERSION:=}" # the newest if empty. GitHub gives no jobs to old ones
: "${RUNNER_SHA256:=}"  # of the package: with RUNNER_VERSION set too, GitHub's API is not asked
: "${RUNNER_CA_FILE:=}" # the company's CA, in PEM: trusted besides the system's
: "${RUNNER_USER:=github-runner}"
: "${RUNNER_DIR:=/opt/actions-runner}" # an unconfigured runner that is there is used
: "${RUNNER_TOKEN_TIMEOUT:=300}" # seconds to go on asking for the token

# Other places to fetch from and to write to: mirrors, tests.
: "${IMDS_URL:=http://169.254.169.254}"
: "${RELEASES_URL:=https://api.github.com/repos/actions/runner/releases}"
: "${DOWNLOAD_URL:=https://github.com/actions/runner/releases/download}"
: "${HOOK:=/usr/local/sbin/github-runner}" # a copy of this script, for the unit
: "${UNIT:=/etc/systemd/system/github-runner.service}"
: "${SETTINGS:=/etc/github-runner.env}" # the unit's
RUNNER_SERVICE=${RUNNER_SERVICE-} # GitHub's unit. The script's own unit has it

log() { printf 'runner: %s\n' "$@" >&2; }

# die STATUS SENTENCE ...: finish prints the sentences, so that they come last.
die() {
  if ((BASH_SUBSHELL)); then log "${@:2}"; else last_words=("${@:2}"); fi
  exit "$1"
}

make_work() { [[ -n $work ]] || work=$(TMPDIR=${TMPDIR:-/var/tmp} mktemp -d); } # /tmp may be memory

uptime() { # in seconds; somebody may set the clock, and so $SECONDS
  local up
  read -r up _ </proc/uptime
  echo "${up%.*}"
}

need() { # need VARIABLE PATTERN WHAT
  local LC_ALL=C value=${!1-} # letters are ASCII's
  [[ ! $value =~ ^($2)$ ]] || return 0
  if [[ -n $value ]]; then bad+=("$1 is malformed: set it to $3"); else bad+=("$1 is not set: set it to $3"); fi
}

check_settings() {
  local bad=() name url='https?://[]!#-[^-~]+' path='/[A-Za-z0-9._/-]+'
  API_URL=${API_URL%/} RUNNER_DIR=${RUNNER_DIR%/}
  need API_URL 'https://[A-Za-z0-9.-]+(:[0-9]+)?(/[A-Za-z0-9._-]+)*|http://(127\.0\.0\.1|localhost)(:[0-9]+)?' \
    "the stack's output ApiUrl, https://..."
  if [[ $TARGET == *.git ]]; then
    bad+=('TARGET is malformed: set it without .git at its end')
  else
    need TARGET '(orgs|enterprises)/[a-z0-9][a-z0-9_-]*|repos/[a-z0-9][a-z0-9_-]*/[a-z0-9._-]+' \
      'orgs/ORG, repos/OWNER/REPOSITORY or enterprises/ENTERPRISE, in lower case'
  fi
  need REGION '[a-z]{2}(-[a-z]+)+-[0-9]+' "the API's AWS Region, such as eu-central-1"
  # " \ and % would mean something in the unit's settings
  need RUNNER_LABELS '|[]!#$&-+.-[^-~-]+(,[]!#$&-+.-[^-~-]+)*' 'labels separated by commas, in ASCII, without spaces'
  need RUNNER_GROUP '[] !#$&-[^-~]*' 'the name of a runner group, in ASCII'
  need RUNNER_EPHEMERAL 'true|false' 'true or false'
  need RUNNER_AFTER_JOB 'poweroff|stay' 'poweroff or stay'
  need RUNNER_IDLE_TIMEOUT '0|[6-9][0-9]|[1-9][0-9]{2,5}' 'a number of seconds, at least 60, or 0'
  need RUNNER_VERSION '|[0-9]+\.[0-9]+\.[0-9]+' 'three numbers with dots, or to nothing for the newest'
  need RUNNER_SHA256 '|[0-9A-Fa-f]{64}' "the package's SHA-256, 64 hexadecimal digits"
  need RUNNER_USER '[a-z_][a-z0-9_-]*' 'a name for a user'
  need RUNNER_DIR "$path" 'an absolute path without spaces'
  need RUNNER_TOKEN_TIMEOUT '[1-9][0-9]{0,4}' 'a number of seconds'
  if [[ -n $RUNNER_CA_FILE ]] && ! grep -qs -e '-----BEGIN CERTIFICATE-----' "$RUNNER_CA_FILE"; then
    bad+=('RUNNER_CA_FILE is malformed: set it to the path of a PEM file with certificates')
  fi
  need IMDS_URL 'http://[][A-Za-z0-9.:-]+' 'an address such as http://169.254.169.254'
  for name in RELEASES_URL DOWNLOAD_URL; do need $name "$url" "a mirror's URL"; done
  for name in http_proxy https_proxy; do need $name "|$url" "a proxy's URL, http://HOST:PORT"; done
  need no_proxy '[] !#-[^-~]*' 'hosts separated by commas'
  if [[ $mode == run ]]; then
    [[ $(id -u) == 0 ]] || bad+=('not root: run this as root')
    [[ -f $0 ]] || bad+=('not a file: run this from a file that stays')
  fi
  if ((${#bad[@]})); then die 2 "${bad[@]}"; fi
}

read_proxies() { # curl reads small letters only
  local name capitals
  for name in http_proxy https_proxy no_proxy; do
    capitals=${name^^}
    [[ -n ${!name-} ]] || printf -v $name %s "${!capitals-}"
    [[ -z ${!name} ]] || export "${name?}"
  done
}

# .NET and OpenSSL read SSL_CERT_FILE, Node.js NODE_EXTRA_CA_CERTS.
trust_company_ca() {
  local system bundle=${SETTINGS%.env}-ca.pem
  [[ -n $RUNNER_CA_FILE ]] || return 0
  make_work
  for system in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /dev/null; do
    [[ ! -r $system ]] || break
  done
  { cat "$system"; echo; cat "$RUNNER_CA_FILE"; } >"$work/ca.pem"
  export CURL_CA_BUNDLE=$work/ca.pem
  [[ $mode == run ]] || return 0
  install -m 644 "$work/ca.pem" "$bundle"
  RUNNER_CA_FILE=$bundle # of the unit
  export SSL_CERT_FILE=$bundle NODE_EXTRA_CA_CERTS=$bundle
}

# Secrets go to curl by stdin: all users see arguments, and before bash 5.1 a here-document is a file.
imds() { # imds PATH [OPTION ...]
  local path=$1
  shift
  printf 'header = "X-aws-ec2-metadata-token: %s"\n' "$imds_token" |
    curl -qgsf --noproxy '*' --connect-timeout 2 --max-time 5 -K - "$@" "$IMDS_URL/latest/$path"
}

field() { # field NAME JSON: the first string of that name, without escapes and control characters
  local s
  s=$(printf '%s\n' "$2" | grep -oE "\"$1\"[[:space:]]*:[[:space:]]*\"([^\"\\\\]|\\\\.)*\"") || return 0
  s=${s%%$'\n'*} s=${s#*:*\"} s=${s%\"}
  s=${s//\\\\/$'\1'} # a backslash, until there are no others
  s=${s//\\\"/\"} s=${s//\\\//\/} s=${s//\\[nrtbf]/ } s=${s//\\u00[01][0-9A-Fa-f]/ }
  printf -v s %b "$s" # \u0041
  s=${s//$'\1'/\\}
  printf '%s\n' "${s//[[:cntrl:]]/ }"
}

header() { printf '%s\n' "$2" | sed -n "1,/^\r*$/s/^$1: *\([^\r]*\)\r*$/\1/Ip"; } # header NAME ANSWER

# open_imds sets $imds_token, or else $cause and $why. What is malformed must not get into curl's settings.
open_imds() {
  local failed=0 session
  imds_token='' cause=imds why="no answer from the metadata service $IMDS_URL"
  session=$(imds api/token -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 300') || failed=$?
  ((failed != 22)) || cause=credentials why='the metadata service opens no session'
  ((failed == 0)) || return 1
  cause=imds why='the metadata service answers nonsense'
  [[ $session =~ ^[A-Za-z0-9/+=_-]+$ ]] && imds_token=$session
}

read_credentials() { # sets the role's keys, or else $cause and $why
  local role code creds iam=meta-data/iam/security-credentials
  open_imds || return
  cause=credentials why='the instance has no role'
  role=$(imds $iam/) || return
  role=${role%%$'\n'*} why="no credentials of the role $role"
  [[ $role =~ ^[A-Za-z0-9+=,.@_-]+$ ]] && creds=$(imds "$iam/$role") || return
  code=$(field Code "$creds")
  [[ ${code:-Success} == Success ]] || { cause=role why+=": $code: $(field Message "$creds")"; return 1; }
  access_key=$(field AccessKeyId "$creds") secret_key=$(field SecretAccessKey "$creds")
  session_token=$(field Token "$creds")
  [[ $access_key$secret_key$session_token =~ ^[A-Za-z0-9/+=_-]+$ && -n $access_key && -n $secret_key ]]
}

refuse_other_credentials() { # waiting would not help
  local kind=''
  [[ -z ${AWS_ACCESS_KEY_ID-} ]] || kind='keys in the environment'
  [[ -z ${AWS_CONTAINER_CREDENTIALS_RELATIVE_URI-}${AWS_CONTAINER_CREDENTIALS_FULL_URI-} ]] ||
    kind='credentials of a container (Fargate, ECS, EKS)'
  [[ -z $kind ]] || die 3 "$why, and there are $kind. Remedy: $(remedy elsewhere)"
}

instance_id() {
  local id
  open_imds && id=$(imds meta-data/instance-id) && [[ $id =~ ^i-[0-9a-f]+$ ]] && echo "$id"
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
  local version='^curl (7\.(8[6-9]|9)|[89]|1[0-9])'
  signer=curl
  # From 7.75 curl had the option, but did not sign the session token.
  [[ $(curl -q --help all 2>&1) != *--aws-sigv4* || ! $(curl -q --version) =~ $version ]] || return 0
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
  local root=''
  [[ $API_URL != *://*/* ]] || root='; API_URL has a path: map the domain at its root'
  case $1 in
    credentials) echo 'attach an instance profile; in a container set the hop limit of IMDSv2 to 2' ;;
    imds) echo 'in a container set the hop limit of IMDSv2 to 2; on an own image mend the stale route to it' ;;
    role) echo 'the role must exist, and let ec2.amazonaws.com assume it' ;;
    elsewhere) echo "this script signs as an instance's role only: use the README's curl or AWS CLI" ;;
    clock) echo 'let chrony or systemd-timesyncd reach a time server (Amazon: 169.254.169.123)' ;;
    tls) echo "the company's CA is not in this machine's store: add it, or set RUNNER_CA_FILE" ;;
    InvalidRequest) echo "check TARGET: lower case, as GitHub has it$root" ;;
    TargetNotAllowed) echo "operator: add $TARGET to AllowedTargets, or correct TARGET" ;;
    TargetNotFound) echo 'check the spelling of TARGET; renamed? operator: can the PAT administer it?' ;;
    CredentialMissing) echo 'operator: put the PAT into the secret; may the function read it (role, KMS key)?' ;;
    CredentialRejected) echo 'operator: the PAT expired or was revoked, put a new one into the secret' ;;
    CredentialForbidden) echo "operator: check the PAT's scope, permission, SSO and policy;" \
      "the function's log names the cause" ;;
    RateLimited) echo 'wait; operator: fewer callers for one PAT' ;;
    Unavailable) echo 'wait: GitHub or Secrets Manager is down' ;;
    [A-Z]*) echo "operator: the README has the code, the function's log the request_id" ;;
    403) echo "API Gateway refused: allow the role execute-api:Invoke on exactly this path (caller policy);" \
      "REGION must be the API's, API_URL the stack's output$root" ;;
    404) echo "API Gateway has no such path: API_URL must be the stack's output$root" ;;
    429) echo "the stage's throttle: start fewer at once, or raise it" ;;
    *) echo 'check API_URL, the network between here and it, and the clock' ;;
  esac
}

refuse() { die 5 "refused: $why. Remedy: $(remedy "$cause")"; }

# ask KIND SECONDS makes one try. It sets $token and $runner_url, or else $cause, $why and $after; or it is the end.
ask() {
  local curl=0 signed status code message id
  signed=$(date +%s)
  answer=$(post "$1" "$2") || curl=$?
  if ((curl)); then
    cause=network why="curl's error $curl"
    ((curl != 60)) || cause=tls
    # Names, connecting, timeouts, answers cut off: they pass.
    case $curl in [5-7] | 1[68] | 28 | 35 | 5[256] | 9[256]) return 1 ;; *) refuse ;; esac
  fi
  status=${answer##*$'\n'} body=${answer#*$'\r\n\r\n'}
  if [[ $status == 20[01] ]]; then
    token=$(field token "$body") runner_url=$(field runner_url "$body")
    [[ $token =~ ^[A-Za-z0-9_-]+$ && $runner_url =~ ^https?://[^[:space:]]+$ ]] ||
      die 5 'the answer has no token: is API_URL the URL of this service?'
    return 0
  fi
  code=$(field code "$body") message=$(field message "$body") id=$(field request_id "$body")
  [[ -n $id ]] || id=$(header apigw-requestid "$answer")
  id=${id//[[:cntrl:]]/ }
  cause=${code:-$status} why="$status ${code:-without a code}: ${message:0:500}${id:+ (request_id $id)}"
  case $status/$code in
    429/* | 50[34]/* | 50[02]/) after=$(header retry-after "$answer") ;;
    403/) look_at_clock "$signed" ;;
    *) refuse ;;
  esac
  if [[ $after =~ ^[0-9]{1,5}$ ]]; then after=$((10#$after)) why+="; asked to wait $after s"; else after=0; fi
  return 1
}

look_at_clock() { # look_at_clock SECONDS: a signature is good for five minutes from then
  local theirs off
  theirs=$(header date "$answer")
  if ! theirs=$(date -d "${theirs:-now}" +%s 2>/dev/null); then
    why+='; its Date header cannot be read'
    refuse
  fi
  off=$(($1 - theirs))
  ((${off#-} < 120)) || cause=clock why="the clock is off by $off s"
}

# fetch KIND sets $token and $runner_url. Each try has a new signature, by the current credentials.
fetch() {
  local end left wait=2 nap after cause why forbidden=0 status=6
  end=$(($(uptime) + RUNNER_TOKEN_TIMEOUT))
  while :; do
    left=$((end - $(uptime))) after=0
    if ! read_credentials; then
      refuse_other_credentials
    elif ask "$1" $((left < 1 ? 1 : left < 35 ? left : 35)); then
      return
    fi
    left=$((end - $(uptime)))
    nap=$((after ? after + RANDOM % (after / 4 + 2) : wait / 2 + RANDOM % (wait / 2 + 1))) # not all at once
    ((nap < left)) || nap=$left
    if [[ $cause == 403 ]]; then # IAM takes seconds to know a new role or policy, rarely a minute
      ((forbidden < 90 && left > 0)) || refuse
      [[ $1 != remove-token ]] || refuse
      forbidden=$((forbidden + nap))
    elif ((left < 1 || nap < after)); then
      case $cause in credentials | imds | role) status=3 ;; clock) status=4 ;; esac
      die "$status" "no token within RUNNER_TOKEN_TIMEOUT=$RUNNER_TOKEN_TIMEOUT s: $why. Remedy: $(remedy "$cause")"
    fi
    log "no token yet: $why; next try in $nap s"
    sleep "$nap.$((RANDOM % 10))"
    wait=$((wait < 10 ? wait * 2 : 20))
  done
}

get() { # get SENTENCE OPTION ...: downloads, or dies with the sentence
  local failed=0
  curl -qgsSfL --retry 5 --retry-delay 2 --retry-max-time 120 --connect-timeout 10 --speed-limit 1000 --speed-time 30 \
    --max-time 900 "${@:2}" || failed=$?
  ((failed != 60)) || die 7 "$1. Remedy: $(remedy tls)"
  ((failed == 0)) || die 7 "$1"
}

# download puts the package at $work/package.
download() {
  local arch release package sum=${RUNNER_SHA256,,} again none
  none="no release with a checksum from $RELEASES_URL: set RUNNER_VERSION and RUNNER_SHA256"
  arch=$(uname -m | sed 's/x86_64/x64/; s/aarch64/arm64/')
  make_work
  if [[ -z $sum || -z $RUNNER_VERSION ]]; then
    get "$none" -o "$work/release" "$RELEASES_URL/${RUNNER_VERSION:+tags/v}${RUNNER_VERSION:-latest}"
    release=$(<"$work/release")
    RUNNER_VERSION=$(field tag_name "$release")
    RUNNER_VERSION=${RUNNER_VERSION#v}
    sum=${sum:-$(printf '%s\n' "$release" | sed -n "s/.*BEGIN SHA linux-$arch -->\([0-9a-f]\{64\}\)<.*/\1/p")}
    [[ $RUNNER_VERSION =~ ^[0-9.]+$ && -n $sum ]] || die 7 "$none"
  fi
  package=actions-runner-linux-$arch-$RUNNER_VERSION.tar.gz
  for again in x ''; do
    get "no package from $DOWNLOAD_URL" -o "$work/package" "$DOWNLOAD_URL/v$RUNNER_VERSION/$package"
    ! printf '%s  %s\n' "$sum" "$work/package" | sha256sum --check --status || return 0
    [[ -n $again ]] || die 7 "the checksum of $package is wrong: the package is not used"
    log "the checksum of $package is wrong: once more"
  done
}

# install_runner makes RUNNER_DIR as a whole, or takes what is there.
install_runner() {
  id "$RUNNER_USER" >/dev/null 2>&1 || useradd --system --home-dir "$RUNNER_DIR" --shell /bin/bash "$RUNNER_USER"
  if [[ -x $RUNNER_DIR/config.sh && -d $RUNNER_DIR/bin ]]; then
    log "the runner that is in $RUNNER_DIR is used"
    chown -R "$RUNNER_USER:" "$RUNNER_DIR"
    return
  fi
  [[ -z $(ls -A "$RUNNER_DIR" 2>/dev/null) ]] || die 7 "$RUNNER_DIR is not empty: empty it, or set RUNNER_DIR"
  download
  unpacked=$RUNNER_DIR.new
  rm -rf "$unpacked" # from a run that was cut off
  (umask 022 && mkdir -p "$unpacked")
  tar -xzf "$work/package" -C "$unpacked" --no-same-owner
  chown -R "$RUNNER_USER:" "$unpacked"
  mv -T "$unpacked" "$RUNNER_DIR" || die 7 "$RUNNER_DIR cannot be replaced: set RUNNER_DIR to a folder below it"
}

# Amazon Linux 2023 lacks it. While a system starts, others may hold the packages' lock.
install_libicu() {
  local waited install=(./bin/installdependencies.sh)
  ! ldconfig -p 2>/dev/null | grep libicu >/dev/null || return 0
  ! command -v dnf >/dev/null || install=(dnf -qy install libicu)
  for ((waited = 0; waited <= 120; waited += 10)); do
    if DEBIAN_FRONTEND=noninteractive timeout --kill-after=10 120 "${install[@]}" >&2; then return; fi
    log 'libicu cannot be installed yet; next try in 10 s'
    sleep 10
  done
  die 7 'libicu, which the runner needs, cannot be installed'
}

as_runner() { # by the environment: all users see arguments
  if [[ $RUNNER_USER == "$(id -un)" ]]; then "$@"; else HOME=$RUNNER_DIR runuser -u "$RUNNER_USER" -- "$@"; fi
}

config() { # config ARGUMENT ...: GitHub's config.sh, for three minutes at most
  [[ $RUNNER_USER != root ]] || export RUNNER_ALLOW_RUNASROOT=1
  ACTIONS_RUNNER_INPUT_TOKEN=$token as_runner timeout --foreground --kill-after=10 180 ./config.sh "$@"
}

# config.sh, the service and the jobs all read .env.
write_env() {
  local name lines='' names='(https?|no)_proxy|(HTTPS?|NO)_PROXY|SSL_CERT_FILE|NODE_EXTRA_CA_CERTS'
  names+='|RUNNER_ALLOW_RUNASROOT|ACTIONS_RUNNER_HOOK_[A-Z_]+|GITHUB_ACTIONS_[A-Z_]+'
  for name in $(compgen -e | grep -xE "$names" || :); do
    [[ ${!name} != *$'\n'* ]] || die 2 "$name is malformed: set it to one line"
    [[ -z ${!name} ]] || lines+=$name=${!name}$'\n'
  done
  # shellcheck disable=SC2016 # $1 is the inner shell's
  [[ -z $lines ]] || printf %s "$lines" | as_runner sh -c \
    'touch .env; { grep -vE "^($1)=" .env; cat; } >.env.new && mv .env.new .env' sh "$names"
}

register() { # unless that has been done
  local id='' once=()
  ! grep -qs '^RUNNER_HAD_JOB=' "$SETTINGS" || die 7 "a job has used $RUNNER_DIR: launch a new instance"
  if [[ -f .runner ]]; then
    id=$(instance_id) || :
    [[ -n $id && $(field agentName "$(<.runner)") != "$id" ]] || return 0
    log 'the registration is of the instance which this image was made of'
    as_runner rm -f .runner .credentials .credentials_rsaparams
  fi
  fetch registration-token # last: it is good for an hour at most
  id=$(instance_id) || die 3 "no instance id from $IMDS_URL"
  [[ $RUNNER_EPHEMERAL == false ]] || once=(--ephemeral)
  make_work
  [[ $mode != run ]] || half_done=x
  config --unattended --replace --url "$runner_url" --name "$id" "${once[@]}" \
    ${RUNNER_LABELS:+--labels "$RUNNER_LABELS"} ${RUNNER_GROUP:+--runnergroup "$RUNNER_GROUP"} 2>&1 |
    tee "$work/config" >&2 && return
  ! grep -q 'minimum runner version' "$work/config" || die 7 "$version_ended"
  die 8 'config.sh failed: see above, and _diag'
}

# From here on jobs can write to RUNNER_DIR: root runs nothing there.
remove() {
  [[ -e .runner ]] || return 0 # an ephemeral runner has none after its job
  RUNNER_TOKEN_TIMEOUT=20      # the shutdown waits
  as_runner rm -f .service     # config.sh refuses to remove a service
  fetch remove-token
  config remove >&2 || die 8 'config.sh remove failed'
}

install_service() {
  if [[ ! -s .service ]]; then
    ./svc.sh uninstall >&2 || : # of a run that was cut off
    ./svc.sh install "$RUNNER_USER" >&2 || die 8 'svc.sh install failed'
  fi
  RUNNER_SERVICE=$(<.service)
}

install_unit() {
  local name
  # Not what stands before and after it in the user data.
  { echo '#!/usr/bin/env bash'; sed -n '/^# --- linux.sh$/,/^# --- end of linux.sh$/p' "$script"; } |
    install -m 700 /dev/stdin "$HOOK"
  for name in API_URL TARGET REGION RUNNER_{LABELS,GROUP,EPHEMERAL,AFTER_JOB,IDLE_TIMEOUT,CA_FILE,USER,DIR,SERVICE} \
    IMDS_URL UNIT SETTINGS http_proxy https_proxy no_proxy; do
    printf '%s="%s"\n' "$name" "${!name}"
  done | install -m 600 /dev/stdin "$SETTINGS" # a proxy's URL may hold a password
  install -m 644 /dev/stdin "$UNIT" <<END
[Unit]
Description=Let the GitHub runner join and leave, and switch the instance off
Wants=network-online.target
After=network-online.target
# Started before it, and so stopped after it.
Before=$RUNNER_SERVICE

[Service]
EnvironmentFile=$SETTINGS
ExecStartPre=$HOOK --register
ExecStart=$HOOK --watch
ExecStop=$HOOK --remove
TimeoutStartSec=15min
TimeoutStopSec=60
StandardError=journal+console

[Install]
WantedBy=multi-user.target
END
  systemctl daemon-reload
}

service_runs() { [[ $(systemctl is-active "$RUNNER_SERVICE") =~ ^(active|activating|reloading|deactivating)$ ]]; }

service_said() { # service_said WORDS: in its present or last run
  journalctl -q -o cat "_SYSTEMD_INVOCATION_ID=$(systemctl show -P InvocationID "$RUNNER_SERVICE")" |
    grep "$1" >/dev/null
}

# The exit code does not tell: GitHub's service host does not know 7, which the listener has for this if it is asked to,
# and would start it again for ever.
version_ended='GitHub has ended this version of the runner: leave RUNNER_VERSION empty, or renew the image'
ended_for_its_version() { service_said 'is deprecated and cannot receive messages'; }

start() {
  local waited
  systemctl enable "${UNIT##*/}" >&2
  systemctl start "${UNIT##*/}" "$RUNNER_SERVICE" >&2 || die 8 "a unit does not start: see journalctl -u ${UNIT##*/}"
  half_done=''
  for ((waited = 5; waited <= 60; waited += 5)); do
    sleep 5
    [[ -e .runner ]] || break # it has had its job
    if ! service_runs; then
      half_done=x
      ! ended_for_its_version || die 7 "$version_ended"
      die 8 "the runner's service has ended: see journalctl -u $RUNNER_SERVICE, and _diag"
    fi
    # The second time: an old one says so too, and ends.
    ((waited == 5)) || ! service_said 'Listening for Jobs' || break
  done
  ((waited <= 60)) || die 8 "the runner is not connected after a minute: see journalctl -u $RUNNER_SERVICE, and _diag"
  log 'the runner is registered and its service started'
}

job_runs() { grep -lsE "^($RUNNER_DIR|$(pwd -P))/bin[^/]*/Runner\.Worker" /proc/[0-9]*/cmdline >/dev/null; }

# watch is the unit's main process. It waits for the end of GitHub's service, which a self-update is not.
watch() {
  local ended=0 idle=0
  while ((ended < 2)); do # somebody may restart it
    sleep 5
    if [[ $(systemctl is-system-running) == stopping ]]; then
      return
    elif ! service_runs; then
      [[ $RUNNER_EPHEMERAL == false ]] || ended=$((ended + 1))
      continue
    fi
    ended=0 idle=$((idle + 5))
    if ((RUNNER_IDLE_TIMEOUT == 0)) || job_runs; then
      idle=0
    elif ((idle >= RUNNER_IDLE_TIMEOUT)); then
      if (remove); then
        log "no job within RUNNER_IDLE_TIMEOUT=$RUNNER_IDLE_TIMEOUT s"
        switch_off
        return
      fi
      idle=$((RUNNER_IDLE_TIMEOUT - 60)) # GitHub may have given it a job just now
    fi
  done
  if [[ ! -e .runner ]]; then
    log 'the runner has had its job'
    echo 'RUNNER_HAD_JOB="true"' >>"$SETTINGS" # if it is started again, it does not join
  elif ended_for_its_version; then
    log "no job: $version_ended"
  else
    log "the runner's service has ended without a job: see journalctl -u $RUNNER_SERVICE, and _diag"
  fi
  [[ $RUNNER_AFTER_JOB != poweroff ]] || switch_off
}

switch_off() {
  log 'the instance goes off'
  systemctl poweroff
}

run() {
  local resumes='' script
  script=$(realpath "$0")
  # Where jobs may have run, GitHub's files are not root's to run any more.
  [[ ! -e $UNIT || ! -x $RUNNER_DIR/config.sh ]] || resumes=x
  [[ -n $resumes ]] || install_runner
  cd "$RUNNER_DIR"
  if [[ -n $resumes ]]; then
    log "$UNIT is there: taking up what it left"
    RUNNER_SERVICE=$(sed -n 's/^RUNNER_SERVICE="\(.*\)"$/\1/p' "$SETTINGS")
  elif [[ -f .runner && $(field agentName "$(<.runner)") != "$(instance_id)" ]]; then
    die 7 "$RUNNER_DIR has a runner that is registered by another name: remove it, or set RUNNER_DIR"
  else
    install_libicu
  fi
  write_env
  register
  [[ -n $resumes ]] || install_service
  install_unit
  start
}

# finish cleans up and has the last word. A registration that nothing serves is removed again.
finish() {
  local status=$?
  [[ -z $unpacked ]] || rm -rf "$unpacked"
  if ((status)) && [[ -n $half_done && -e .runner ]]; then
    [[ ! -e $UNIT ]] || systemctl disable --now "${UNIT##*/}" >&2 || : # it removes, too
    if [[ ! -e .runner ]] || (remove); then
      log 'the registration was removed again'
    else
      log 'the registration stays: remove it at GitHub, or run this again'
    fi
  fi
  [[ -z $work ]] || rm -rf "$work"
  ((status == 0 || ${#last_words[@]})) || { last_words=("a command failed with $status: see above"); status=1; }
  ((${#last_words[@]} == 0)) || log "${last_words[@]}"
  exit "$status"
}

mode=run work='' unpacked='' half_done='' last_words=()
trap finish EXIT
case ${1-} in
  '') ;;
  --token-only | --register | --remove | --watch) mode=${1#--} ;; # the last three are the unit's
  *) die 2 'unknown argument: --token-only or none' ;;
esac
read_proxies
check_settings
trust_company_ca
choose_signer
case $mode in
  token-only)
    fetch registration-token
    printf '%s\n' "$token"
    ;;
  run) run ;;
  *)
    cd "$RUNNER_DIR"
    "$mode"
    ;;
esac
# --- end of linux.sh
