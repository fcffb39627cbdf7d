#!/usr/bin/env bash
# The step of the action (action.yml): builds portfree an environment of its own, once a job, and
# becomes the command. The job's Python, PATH and variables stay as they are.
#
# Bash 3.2 (macOS) and Git Bash (Windows) run this too.
set -eu

# While pip runs, bash would take note of these, and then go on.
trap 'exit 130' INT
trap 'exit 143' TERM

fail() {
  echo "::error title=portfree::$1"
  exit 2
}

# The runner's paths on Windows are D:\a\_temp; D:/a/_temp is one for bash and for Python.
slashes() {
  if command -v cygpath >/dev/null; then
    cygpath -m "$1"
  else
    echo "$1"
  fi
}

# What the job has set up, else what the runner keeps for actions/setup-python.
find_python() {
  local python tools
  tools=$(slashes "${RUNNER_TOOL_CACHE:-.}")
  for python in python3 python python3.14 python3.13 python3.12 python3.11 \
    "$tools"/Python/3.1[1-9].*/*/bin/python3 "$tools"/Python/3.1[1-9].*/*/python.exe; do
    if "$python" -I -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
      echo "$python"
      return
    fi
  done
  return 1
}

# Install portfree into the folder $1, by uv (a second), by the pip that Python has (4 s), or by one
# that the new environment gets first (7 s; Debian's Python may have no other).
build() {
  # The settings of the job's own environments. Those for an index and its credentials stay.
  unset PYTHONHOME PYTHONPATH VIRTUAL_ENV CONDA_PREFIX \
    PIP_TARGET PIP_PREFIX PIP_ROOT PIP_USER PIP_PYTHON PIP_CONSTRAINT PIP_BUILD_CONSTRAINT \
    PIP_REQUIREMENT PIP_REQUIRE_HASHES PIP_REQUIRE_VIRTUALENV PIP_NO_DEPS PIP_NO_BUILD_ISOLATION \
    UV_PYTHON UV_SYSTEM_PYTHON UV_BREAK_SYSTEM_PACKAGES UV_CONSTRAINT UV_BUILD_CONSTRAINT \
    UV_OVERRIDE UV_REQUIRE_HASHES UV_NO_BUILD UV_NO_BUILD_ISOLATION UV_NO_DEPS UV_NO_BINARY
  export PIP_DISABLE_PIP_VERSION_CHECK=1
  cd "$temp" || return # not where uv would find the configuration of the job's project

  # uv knows its last build of this folder by the time of pyproject.toml alone.
  if command -v uv && uv venv --python '>=3.11' "$1" &&
    uv pip install --python "$1" --refresh-package portfree "$action"; then
    return
  fi
  rm -rf "$1"
  local python
  python=$(find_python) || return 3
  if "$python" -I -m venv --without-pip "$1" &&
    "$python" -I -m pip --python "$(python_in "$1")" install "$action"; then
    return
  fi
  rm -rf "$1"
  "$python" -I -m venv "$1" && "$(python_in "$1")" -I -m pip install "$action"
}

python_in() {
  if [ -e "$1/Scripts/python.exe" ]; then
    echo "$1/Scripts/python.exe"
  else
    echo "$1/bin/python"
  fi
}

action=$(slashes "$GITHUB_ACTION_PATH")
temp=$(slashes "$RUNNER_TEMP")
# Another version of the action in the same job has an environment of its own.
key=$({ echo "$action" && cat "$action/pyproject.toml"; } | cksum)
home="$temp/portfree-${key%% *}"

if [ ! -d "$home" ]; then
  new=$(mktemp -d "$temp/portfree-new-XXXXXX")
  status=0
  (build "$new/env") >"$new/log" 2>&1 || status=$?
  if [ $status -ne 0 ]; then
    echo "::group::portfree could not be installed"
    cat "$new/log"
    echo "::endgroup::"
  fi
  case $status in
    0) ;;
    3) fail "there is no Python 3.11 or newer here, and no uv to get one: put actions/setup-python before this step" ;;
    *) fail "portfree could not be installed: the log of this step says why" ;;
  esac
  # Only what is complete is found at this place, also by a step that runs at the same time.
  [ -d "$home" ] || mv "$new/env" "$home" || fail "cannot write to $temp"
  rm -rf "$new"
  echo "portfree: installed in $SECONDS s"
fi

exec "$(python_in "$home")" -I -m portfree._cli.action
