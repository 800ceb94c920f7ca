#!/usr/bin/env bash
# Builds and measures the images.
#   bash infra/images.sh build [IMAGE…]     default: all
#   bash infra/images.sh sizes [IMAGE…]     fails where an image is larger than it may be
#   bash infra/images.sh page [IMAGE…]      writes their sizes into the section of infra/README.md for this TORCH
# TORCH=cuda is for GPUs: the same images with torch's CUDA build, and -cuda behind their version. TORCH_INDEX names an
# index that has torch for CPUs; BASE another base.
set -euo pipefail
cd "$(dirname "$0")/.."
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
torch=${TORCH:-cpu}
case $torch in
    cpu) tag=$version ;;
    cuda) tag=$version-cuda ;;
    *) echo "TORCH is cpu or cuda, not $torch" >&2; exit 2 ;;
esac
images=(preprocessing segmentation feature_store model_serving survival_analytics pipelines)

torch_of() {
    case $1 in segmentation | model_serving | pipelines) echo "$torch" ;; *) echo none ;; esac
}

megabytes_allowed() { # pipelines holds everything and has no bound
    case $1-$(torch_of "$1") in pipelines-*) echo - ;; *-none) echo 900 ;; *-cpu) echo 2000 ;; *-cuda) echo 5500 ;; esac
}

build() {
    local image target arguments
    for image in "$@"; do
        target=service
        [ "$image" != pipelines ] || target=pipelines
        arguments=(--target "$target" --build-arg "SERVICE=$image" --build-arg "TORCH=$(torch_of "$image")")
        arguments+=(--build-arg "VERSION=$version" --build-arg "REVISION=$(git rev-parse HEAD)")
        [ -z "${TORCH_INDEX:-}" ] || arguments+=(--build-arg "TORCH_INDEX=$TORCH_INDEX")
        [ -z "${BASE:-}" ] || arguments+=(--build-arg "BASE=$BASE")
        echo "== gliaflow/$image:$tag"
        bash infra/engine.sh build -f infra/docker/Dockerfile "${arguments[@]}" -t "gliaflow/$image:$tag" .
        mkdir -p build/sbom
        bash infra/engine.sh run --rm "gliaflow/$image:$tag" cat /usr/share/gliaflow/sbom.cdx.json \
            > "build/sbom/$image-$tag.cdx.json"
    done
}

megabytes_of() { echo $(($(bash infra/engine.sh image inspect --format '{{.Size}}' "$1") / 1000000)); }

sizes() {
    local image mb allowed failed=0
    printf '| image | MB | allowed |\n| --- | ---: | ---: |\n'
    for image in "$@"; do
        mb=$(megabytes_of "gliaflow/$image:$tag")
        allowed=$(megabytes_allowed "$image")
        echo "| $image | $mb | $allowed |"
        [ "$allowed" = - ] || [ "$mb" -le "$allowed" ] || failed=1
    done
    [ "$failed" = 0 ] || { echo "an image is larger than it may be" >&2; exit 1; }
}

page() {
    local table base begin
    base=${BASE:-$(sed -n 's/^ARG BASE=//p' infra/docker/Dockerfile)}
    begin=$(sed -n "/<!-- begin sizes-$torch: /=" infra/README.md)
    [ -n "$begin" ] || { echo "infra/README.md has no section sizes-$torch" >&2; exit 1; }
    table=$(sizes "$@"; echo; echo "The base that stood for \`${base##*/}\` is $(megabytes_of "$base") MB of each; torch is the \`$torch\` build.")
    TABLE=$table perl -0pi -e "s/(<!-- begin sizes-$torch:[^\n]*\n).*?(<!-- end sizes-$torch -->)/\$1\n\$ENV{TABLE}\n\n\$2/s" infra/README.md
}

verb=${1:-help}
shift || true
[ $# != 0 ] || set -- "${images[@]}"
case $verb in
    build | sizes | page) "$verb" "$@" ;;
    *) sed -n '2,8p' "$0"; exit 2 ;;
esac
