#!/usr/bin/env bash
# Removes from an installation what no service ever reads, and compiles what is left: infra/docker/prune.sh /opt/venv
# The contract suite, run against the images (`make images-check`), shows that nothing else is missing.
set -euo pipefail
site=$(echo "$1"/lib/python3*/site-packages)
cd "$site"
# The libraries' own tests; numpy.testing, which libraries import, reads numpy's.
find . -path ./numpy -prune -o -type d -name tests -print0 | xargs -0 --no-run-if-empty rm -rf
# What is only compiled against, or read by type checkers
find . -type d -name include -prune -print0 | xargs -0 --no-run-if-empty rm -rf
find . -type f \( -name '*.pyi' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.a' \) -delete
# Arrow's RPC; its query plans stay, since the rest is linked to them.
rm -f pyarrow/libarrow_flight.so*
# Feast's web page is not served, and of nilearn only the atlas is read.
rm -rf feast/ui
[ ! -d nilearn ] || find nilearn -type f ! -name '*.nii.gz' ! -path nilearn/__init__.py -delete
# The one object store is S3: the descriptions of Amazon's 400 other services go.
if [ -d botocore/data ]; then
    find botocore/data -mindepth 1 -maxdepth 1 -type d ! -name s3 ! -name 'sts' ! -name 'sso*' ! -name signin -print0 | xargs -0 rm -rf
fi
# Symbol tables; not of libraries that their wheel relocated (*.libs), which strip would break, nor of those that hold
# code for GPUs
find . -path '*.libs' -prune -o -path ./torch -prune -o -path ./nvidia -prune -o -type f -name '*.so*' -size +1M -exec strip --strip-unneeded {} +
# A read-only root keeps no bytecode of its own. Templates of modules do not compile, and need not.
"$1/bin/python" -m compileall -q . >/tmp/not-compiled.log || wc -l /tmp/not-compiled.log
rm -f /tmp/not-compiled.log
