#!/usr/bin/env bats
# shellcheck disable=SC2154 # bats sets status, output, lines and stderr
load common

try_report() {
    try report --model "$(tiny)" --max-seconds 1 "$@"
}

# The report is whole JSON, with this exit code, although something failed.
fails_in_report() {
    if [ "$status" -ne 1 ] || [ "$(json format)" != "clmla-report 1" ] ||
        [ "$(json passed)" != false ]; then
        show_result
        return 1
    fi
}

@test "one document with every part" {
    try_report "$(golden 01_tiny_prefill)" "$(golden 02_tiny_decode)"
    passes
    is_quiet notes
    [ "$(json format)" = "clmla-report 1" ]
    [ "$(json passed) $(json errors)" = "true []" ]
    [[ "$(json commit)" =~ ^[0-9A-Za-z._-]+$ ]]
    [[ "clmla $(json clmla)" = "$("$CLMLA" --version)" ]]
    for field in commit clblast system.name system.release system.distribution system.machine \
        system.processor num_platforms settings.matrix_units settings.clblast_overrides settings.sm_90a \
        settings.own_kernels device.platform device.name device.driver device.class; do
        json "$field" >/dev/null
    done
    [ "$(json system.processors)" -ge 1 ]
    [ "$(json verify.state) $(json bench.state)" = "passed passed" ]
    [ "$(json verify.results.0.case)" = 01_tiny_prefill ]
    [ "$(json verify.results.1.result)" = PASS ]
    [ "$(json bench.model) $(json bench.config.kv_lora_rank)" = "custom 32" ]
    for i in 0 1 2 3; do
        [ "$(json "bench.results.$i.verified")" = true ]
        json "bench.results.$i.median_ms" >/dev/null
    done
}

@test "without files nothing is verified; the devices are those of clmla devices" {
    try_report
    passes
    [ "$(json verify)" = '{"state":"not run","results":[]}' ]
    reported=$(json devices)
    try devices --format json
    [ "$reported" = "$(json devices)" ]
}

@test "FP8 storage counts for verify and bench" {
    try_report --weights-dtype fp8 "$(golden 27_fp8_prefill)" "$(golden 01_tiny_prefill)"
    passes
    [ "$(json settings.weights_dtype) $(json settings.cache_dtype)" = "f8_e4m3 bf16" ]
    [ "$(json verify.results.0.result) $(json verify.results.1.result)" = "PASS SKIP" ]
    for i in 0 1 2 3; do
        [ "$(json "bench.results.$i.weights_dtype") $(json "bench.results.$i.cache_dtype")" = \
            "f8_e4m3 bf16" ]
    done
    try_report --cache-dtype fp8
    fails_with 2 "--cache-dtype 'fp8'" "kv_lora_rank 32"
}

@test "--output takes the report, stdout stays empty" {
    mkdir folder && cd folder # nothing else is in it
    echo old >report.json
    try_report --output report.json
    passes
    [ -z "$output" ]
    output=$(cat report.json)
    [ "$(json passed)" = true ]
    [ "$(ls)" = report.json ]
}

@test "--output is left alone until the report is complete" {
    mkdir folder && cd folder # nothing else is in it
    echo old >report.json
    # Killed while PoCL compiles it must not leave half of a kernel where others look for it.
    POCL_CACHE_DIR=$BATS_TEST_TMPDIR/pocl "$CLMLA" report --max-seconds 60 --output report.json &
    sleep 2
    [ "$(ls) $(cat report.json)" = "report.json old" ]
    kill -KILL $!
    wait $! || true
    [ "$(ls) $(cat report.json)" = "report.json old" ]
    try_report --output report.json --dtype fp4
    fails_with 2 "--dtype 'fp4'"
    [ "$(cat report.json)" = old ]
}

@test "--output in a folder that does not exist, and one that cannot be replaced" {
    try_report --output nosuch/report.json
    fails_with 1 "--output 'nosuch/report.json'"
    mkdir folder
    try_report --output folder
    fails_with 1 "--output 'folder'"
    [ -z "$(ls folder; find . -name 'folder.*')" ]
}

@test "--output to a pipe" {
    run bash -c '"$CLMLA" report --model "$1" --max-seconds 1 --output /dev/stdout | cat' - "$(tiny)"
    passes
    [ "$(json passed)" = true ]
}

@test "a file that fails is recorded, and the rest is done" {
    head -c 20000 "$(golden 01_tiny_prefill)" >short.safetensors
    try_report nosuch.safetensors "$(golden 01_tiny_prefill)" short.safetensors
    fails_in_report
    [ "$(json verify.state) $(json bench.state)" = "failed passed" ]
    [ "$(json verify.results.0.case)" = 01_tiny_prefill ]
    [[ "$(json errors.0.stage) $(json errors.0.text)" = "verify FILE 1: "* ]]
    [[ "$(json errors.1.stage) $(json errors.1.text)" = "verify FILE 3: "* ]]
    [[ "${stderr_lines[0]}" = "clmla: nosuch.safetensors: "* ]] # whose the file is may read its name
}

@test "a case over its bound fails, and its figures are there" {
    cp "$(golden 01_tiny_prefill)" tight.safetensors
    chmod u+w tight.safetensors
    sed -i 's/"bound_bf16_rel_l2":"0.005508/"bound_bf16_rel_l2":"0.000001/' tight.safetensors
    try_report tight.safetensors
    fails_in_report
    [ "$(json verify.results.0.result) $(json verify.state)" = "FAIL failed" ]
}

@test "kernels that do not compile are recorded" {
    mkdir kernels
    cp -r "$CLMLA_KERNEL_SOURCES"/. kernels
    echo 'not OpenCL' >>kernels/common.clh
    CLMLA_CACHE_DIR='' try_report --kernel-dir kernels "$(golden 01_tiny_prefill)"
    fails_in_report
    [ "$(json verify.state) $(json bench.state)" = "failed failed" ]
    [ "$(json errors.0.stage)" = verify ]
    [ "$(json settings.own_kernels)" = true ]
    json devices.0.name >/dev/null
}

@test "a device that cannot be opened is recorded" {
    [ -n "${CLMLA_FAILING_CONTEXT:-}" ] || skip "sanitizers admit no library before them"
    LD_PRELOAD=$CLMLA_FAILING_CONTEXT try_report "$(golden 01_tiny_prefill)"
    fails_in_report
    [ "$(json device) $(json verify.state) $(json bench.state)" = "null not run not run" ]
    [ "$(json errors.0.stage)" = device ]
    [[ "$(json errors.0.text)" = *CL_DEVICE_NOT_AVAILABLE* ]]
    json devices.0.name >/dev/null
    run json errors.1
    [ "$status" -eq 1 ]
}

@test "no OpenCL device is recorded" {
    mkdir empty
    OCL_ICD_VENDORS=$PWD/empty OPENCL_VENDOR_PATH=$PWD/empty OCL_ICD_FILENAMES='' try_report
    if [ "$status" -eq 0 ]; then
        skip "this OpenCL loader finds drivers in other ways"
    fi
    fails_in_report
    [ "$(json devices) $(json device)" = "[] null" ]
    [[ "$(json errors.0.text)" = "no OpenCL device"* ]]
}

@test "mistakes in the arguments give no report" {
    try_report --device 99
    fails_with 2 "--device '99'"
    try report --model nosuch.json
    fails_with 2 "--model 'nosuch.json'"
    try_report --max-seconds 0
    fails_with 2 "--max-seconds '0'"
    try_report --kernel-dir nosuch
    fails_with 2 "--kernel-dir 'nosuch'"
    try_report --format csv
    fails_with 2 "--format"
}

# Fails when $output has what tells whose machine this is.
names_nobody() {
    local word
    for word in secret "$PWD" "$(dirname "$PWD")" "$BATS_FILE_TMPDIR"; do
        if grep -iF -- "$word" <<<"$output"; then
            return 1
        fi
    done
    for word in "$(uname -n)" "$(id -un)"; do
        # As a word of its own: a user may be called "a".
        if grep -iwF -- "$word" <<<"$output"; then
            return 1
        fi
    done
}

# Everything that could tell carries a word that the report must not have.
@test "neither host, user nor path is in the report" {
    mkdir -p secret/home secret/kernels secret/cache
    cp "$(golden 01_tiny_prefill)" secret/secret.safetensors
    cp "$(tiny)" secret/secret.json
    cp -r "$CLMLA_KERNEL_SOURCES"/. secret/kernels
    echo '#error broken' >>secret/kernels/rope.cl
    export HOME=$PWD/secret/home USER=secret LOGNAME=secret XDG_CACHE_HOME=$PWD/secret/home \
        CLMLA_CACHE_DIR=$PWD/secret/cache HOSTNAME=secret
    echo damaged >secret/secret.tuning
    for kernels in "--kernel-dir $PWD/secret/kernels" "--kernel-dir secret/kernels" ""; do
        # shellcheck disable=SC2086 # two words or none
        try report --model "$PWD/secret/secret.json" --max-seconds 1 $kernels \
            --output secret/secret.out secret/secret.safetensors secret/nosuch.safetensors \
            "$PWD/secret/nosuch.safetensors" $'nosuch\nof\xff\esecret.safetensors'
        output=$(cat secret/secret.out)
        fails_in_report
        names_nobody
    done
    [ "$(json verify.results.0.result)" = PASS ]
    for record in secret/secret.tuning "$PWD/secret/nosuch.tuning"; do
        try report --model "$PWD/secret/secret.json" --tuning "$record" --output secret/secret.out
        output=$(cat secret/secret.out)
        fails_in_report
        names_nobody
    done
}
