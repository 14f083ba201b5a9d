#!/usr/bin/env bats
# shellcheck disable=SC2154 # bats sets status, output, lines and stderr
load common

@test "the table has a heading and a line per device" {
    try devices
    passes
    [[ "${lines[0]}" == *"device"* ]]
    [ "${#lines[@]}" -ge 2 ]
}

@test "CSV has as many fields in each line" {
    try devices --format csv
    passes
    [[ "${lines[0]}" == index,platform_index,platform,name,type,class,* ]]
    [ "${#lines[@]}" -ge 2 ]
}

@test "JSON has the fields" {
    try devices --format json
    passes
    is_quiet
    [ "$(json devices.0.index)" = 0 ]
    for field in platform name type class driver version compute_units memory_gib max_alloc_gib \
        local_kib features; do
        json "devices.0.$field" >/dev/null
    done
}

@test "options choose one device" {
    try devices --format json
    name=$(json devices.0.name)
    platform=$(json devices.0.platform)
    try devices --platform "$platform" --device "$name" --format json
    passes
    [ "$(json devices.0.name)" = "$name" ]
    run json devices.1.name
    [ "$status" -eq 1 ]
}

@test "--measure gives positive figures" {
    try devices --device 0 --measure --format json
    passes
    [[ "$(json devices.0.read_gb_per_s)" =~ ^[0-9] ]]
    [[ "$(json devices.0.fma_gflop_per_s)" =~ ^[0-9] ]]
    [ "$(json devices.0.read_gb_per_s)" != 0.0 ]
}

@test "a device index past the end" {
    try devices --device 99
    fails_with 2 "--device '99'" "0 '"
}

@test "an unknown platform" {
    try devices --platform nosuch
    fails_with 2 "--platform 'nosuch'" "0 '"
}

@test "an unknown device" {
    try devices --device nosuch
    fails_with 2 "--device 'nosuch'"
}

@test "a vendor without a platform" {
    try devices --iluvatar
    fails_with 2 "--iluvatar" "Iluvatar exposes no OpenCL platform here"
}

@test "a shorthand together with --platform" {
    try devices --nvidia --platform 0
    fails_with 2 "--platform and --nvidia"
}

@test "the environment is a default that errors name" {
    CLMLA_PLATFORM=nosuch try devices
    fails_with 2 "CLMLA_PLATFORM 'nosuch'"
    CLMLA_DEVICE=99 try devices
    fails_with 2 "CLMLA_DEVICE '99'"
    CLMLA_DEVICE=99 try devices --device 0
    passes
}

@test "an unknown format" {
    try devices --format xml
    fails_with 2 "--format 'xml'" "table, csv or json"
}

@test "an argument that is no option" {
    try devices file
    fails_with 2 "file"
}

@test "no OpenCL platform: the error names the package" {
    mkdir empty
    OCL_ICD_VENDORS=$PWD/empty OPENCL_VENDOR_PATH=$PWD/empty OCL_ICD_FILENAMES='' try devices
    if [ "$status" -eq 0 ]; then
        skip "this OpenCL loader finds drivers in other ways"
    fi
    fails_with 1 "no OpenCL" "pocl-opencl-icd"
}
