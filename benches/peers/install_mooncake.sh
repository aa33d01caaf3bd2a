#!/usr/bin/env bash
# Installs Mooncake Store from PyPI into DIR, once: usage: install_mooncake.sh DIR
# It links libcuda, which only a GPU driver brings: a stub stands in whose every call says CUDA_ERROR_NO_DEVICE (100).
set -euo pipefail
dir=$1
[ -e "$dir/mooncake/.complete" ] && exit 0
mkdir -p "$dir/stub"
python3 -m venv "$dir/mooncake"
"$dir/mooncake/bin/pip" -q install 'mooncake-transfer-engine==0.3.13.post1' 'nvidia-cuda-runtime-cu12>=12,<13' 1>&2
site=$("$dir/mooncake/bin/python" -c 'import site; print(site.getsitepackages()[0])')
mkdir -p "$dir/mooncake/lib/site"
ln -sfn "$site/mooncake" "$dir/mooncake/lib/site/mooncake"
ln -sfn "$site/nvidia/cuda_runtime/lib" "$dir/mooncake/lib/site/cuda"
nm -D --undefined-only "$site"/mooncake/{store.so,engine.so,mooncake_master} |
  awk '/ U cu[A-Z]/ { sub(/@.*/, "", $2); print $2 }' | sort -u |
  awk '{ print "int " $1 "(void) { return 100; }" }' > "$dir/stub/cuda.c"
cc -shared -fPIC -Wl,-soname,libcuda.so.1 -o "$dir/stub/libcuda.so.1" "$dir/stub/cuda.c"
LD_LIBRARY_PATH="$dir/stub:$dir/mooncake/lib/site/cuda" "$dir/mooncake/bin/python" -c 'import mooncake.store' || {
  echo 'mooncake.store does not load: apt-get install ibverbs-providers libnuma1 and try again' >&2
  exit 1
}
touch "$dir/mooncake/.complete"
