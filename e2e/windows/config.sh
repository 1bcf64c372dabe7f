# The stand-in of the runner's config.cmd, in its folder. CONFIG says how it fails.
record=$ROOT/record
echo "$(basename "$(dirname "$PWD")")/$(basename "$PWD"): $*" >>"$record/config.args"
echo "$ACTIONS_RUNNER_INPUT_TOKEN" >>"$record/config.tokens"
printf '\342\210\232 Connected to GitHub\n'
case $CONFIG in
  fails) echo 'Http response code: NotFound'; exit 1 ;;
  'is old') echo 'The minimum runner version required to register with GitHub Actions is now 2.329.0.'; exit 1 ;;
  hangs) exec sleep 600 ;;
esac
if [ "$1" = remove ]; then
  [ -e .runner ] && [ -e .credentials ] && [ ! -e .service ] || { echo 'not configured'; exit 1; }
  rm .runner .credentials
  exit
fi
[ ! -e .runner ] || { echo 'already configured'; exit 1; }
cp .env "$record/env"
touch .runner .credentials .credentials_rsaparams
[ "$CONFIG" != 'makes no service' ] || exit 1
echo actions.runner.acme.i >.service
printf 'actions.runner.acme.i\nRunning\n' >"$ROOT/service"
mkdir -p _diag
echo 'Listening for Jobs' >_diag/Runner_20261126-020000-utc.log
[ "$CONFIG" != 'registers what ends' ] ||
  echo 'Runner version v2.1.0 is deprecated and cannot receive messages.' >>_diag/Runner_20261126-020000-utc.log
[ "$CONFIG" != 'registers what ends' ] || printf 'actions.runner.acme.i\nStopped\n' >"$ROOT/service"
