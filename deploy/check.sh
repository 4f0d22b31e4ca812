#!/usr/bin/env bash
# Checks deployments, rules and dashboards with the tools that are installed, and says which were not. What needs no tool is
# checked by `cargo test --release deploy dashboards`.
#   promtool                     Debian: prometheus
#   systemd-analyze              systemd
#   kustomize                    go install sigs.k8s.io/kustomize/kustomize/v5@v5.5.0
#   kubernetes_validate          pip install kubernetes-validate pyyaml
#   docker compose or compose-go go install github.com/compose-spec/compose-go/v2/cmd@latest (a binary called cmd: COMPOSE=cmd)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
missing=()
have() { command -v "$1" >/dev/null 2>&1 || { missing+=("$1"); return 1; }; }

if have promtool; then
  (cd prometheus && promtool check config prometheus.yml && promtool test rules alerts_test.yml)
fi

if have systemd-analyze; then
  units=$(mktemp -d)
  trap 'rm -rf "$units"' EXIT
  # verify wants the commands to be there, so any executable stands for ours
  for unit in systemd/*.service systemd/*.timer; do
    sed 's#/usr/bin/meit-[a-z]*#/bin/true#' "$unit" >"$units/$(basename "$unit")"
  done
  (cd "$units" && systemd-analyze verify ./*.service ./*.timer)
  for unit in systemd/*.service; do systemd-analyze security --offline=true --threshold=20 "$unit" | tail -n 1; done
fi

if have kustomize; then
  rendered=$(kustomize build k8s)
  python=${PYTHON:-python3}
  if "$python" -c 'import kubernetes_validate, yaml' 2>/dev/null; then
    "$python" -c '
import sys, kubernetes_validate, yaml
for document in yaml.safe_load_all(sys.stdin):
    kubernetes_validate.validate(document, "1.31", strict=True)
    print("valid:", document["kind"], document["metadata"]["name"])' <<<"$rendered"
  else
    missing+=("python package kubernetes_validate")
  fi
fi

if [ -n "${COMPOSE:-}" ]; then
  "$COMPOSE" docker/compose.yaml docker/compose.cuda.yaml >/dev/null && echo "valid: docker/compose.yaml, docker/compose.cuda.yaml"
elif docker compose version >/dev/null 2>&1; then
  docker compose -f docker/compose.yaml -f docker/compose.cuda.yaml config --quiet && echo "valid: docker/compose.yaml, docker/compose.cuda.yaml"
else
  missing+=("docker compose")
fi

[ ${#missing[@]} -eq 0 ] || printf 'not checked, not installed: %s\n' "${missing[@]}"
