#!/usr/bin/env bats
# shellcheck disable=SC2154 # bats sets status, output, lines and stderr
load common

try_tiny() {
    try bench --model "$(tiny)" --warmup 1 --runs 3 "$@"
}

@test "every case and mode, and the seed's two lines at the end" {
    try_tiny
    passes
    [ "$(grep -c '^prefill ' <<<"$output")" -eq 2 ]
    [ "$(grep -c '^decode ' <<<"$output")" -eq 2 ]
    [[ "${lines[-2]}" =~ ^Prefill\ Latency:\ [0-9.]+\ ms\ \(batched\)$ ]]
    [[ "${lines[-1]}" =~ ^Decode\ Throughput:\ [0-9.]+\ tok/s\ \(batched\)$ ]]
}

@test "JSON has the fields" {
    try_tiny --format json --dtype f32
    passes
    is_quiet
    [ "$(json model)" = "$(tiny)" ]
    for field in clmla device.platform device.name device.driver device.class; do
        json "$field" >/dev/null
    done
    for i in 0 1 2 3; do
        for field in projection kernels seqlens pastlens median_ms min_ms tokens_per_s \
            kernel_launches clblast_calls gb_per_s gflop_per_s; do
            json "results.$i.$field" >/dev/null
        done
        [ "$(json "results.$i.dtype")" = f32 ]
        [ "$(json "results.$i.runs")" = 3 ]
        [ "$(json "results.$i.verified")" = true ]
        [[ "$(json "results.$i.max_rel_error")" =~ e-0?[5-9]$ ]]
    done
    [ "$(json results.0.case) $(json results.0.mode)" = "prefill sequential" ]
    [ "$(json results.1.case) $(json results.1.mode)" = "prefill batched" ]
    [ "$(json results.2.case) $(json results.2.mode)" = "decode sequential" ]
    [ "$(json results.3.case) $(json results.3.mode)" = "decode batched" ]
    json results.0.ttft_ms >/dev/null
    [ "$(json results.0.num_tokens)" = 704 ]
    [ "$(json results.0.seqlens)" = "[64,128,256,256]" ]
    [ "$(json results.0.pastlens)" = "[512,0,0,256]" ]
    [ "$(json results.3.num_tokens)" = 16 ]
    run json results.2.ttft_ms # last: run replaces $output
    [ "$status" -eq 1 ]
}

@test "a model's name that is no text of a terminal or of JSON" {
    cp "$(tiny)" $'t\xff\e.json'
    try bench --model $'t\xff\e.json' --case decode --mode batched --runs 3 --warmup 1 --format json
    passes
    [ "$(json model)" = 't??.json' ]
    try bench --model $'t\xff\e.json' --case decode --mode batched --runs 3 --warmup 1
    passes
    [[ "${lines[0]}" == *"model t??.json, "* ]]
}

@test "CSV has a heading and a line per case and mode" {
    try_tiny --format csv
    passes
    [ "${#lines[@]}" -eq 5 ]
    [[ "${lines[0]}" == case,mode,dtype,projection,kernels,seqlens,pastlens,num_tokens,runs,* ]]
}

@test "one case, one mode, lengths of one's own" {
    try_tiny --case prefill --mode batched --seqlens 3,70,1 --pastlens 0,5,9 --format json
    passes
    [ "$(json results.0.seqlens)" = "[3,70,1]" ]
    [ "$(json results.0.num_tokens)" = 74 ]
    run json results.1.case
    [ "$status" -eq 1 ]
}

@test "decode with past lengths alone, and with several tokens a step" {
    try_tiny --case decode --pastlens 5,0,64 --format json
    passes
    [ "$(json results.0.seqlens)" = "[1,1,1]" ]
    try_tiny --case decode --seqlens 2,1,3 --pastlens 5,0,64 --format json
    passes
    [ "$(json results.1.num_tokens)" = 6 ]
}

@test "a failing projection leaves the other's rows, and is named" {
    [ -n "${CLMLA_KERNEL_SOURCES:-}" ] || skip "CLMLA_KERNEL_SOURCES is not set"
    cp -r "$CLMLA_KERNEL_SOURCES" kernels
    chmod -R u+w kernels
    for file in kernels/*/clblast_convert.cl; do
        echo 'this is no kernel' >>"$file"
    done
    try_tiny --kernel-dir kernels --case prefill --mode batched --projection clblast,native \
        --format csv
    [ "$status" -eq 1 ]
    [ "${#lines[@]}" -eq 2 ]
    [[ "${lines[1]}" == prefill,batched,bf16,native,* ]]
    [ "$(grep -c '^clmla: ' <<<"$stderr")" -eq 1 ] # the compiler may have lines of its own
    [[ "$stderr" == *"clmla: prefill batched clblast: "?pu/clblast_convert.cl:\ * ]]
}

@test "projections that are no list of different ones" {
    try_tiny --projection native,native
    fails_with 2 "--projection 'native,native': native is given twice" "auto, native or clblast"
    try_tiny --projection native,blas
    fails_with 2 "--projection 'native,blas'" "auto, native or clblast"
}

@test "--check off says that nothing was verified" {
    try_tiny --check off --case decode --mode batched --format json
    passes
    [ "$(json results.0.verified)" = false ]
    [ "$(json results.0.max_rel_error)" = null ]
}

@test "--sweep goes over heads, batches and contexts beside the device's figures" {
    try_tiny --sweep --batches 1,3 --contexts 1,70 --heads 4,6 --format json
    passes
    is_quiet
    for field in device_measured.read_gb_per_s device_measured.fma_gflop_per_s device.name layers; do
        json "$field" >/dev/null
    done
    for i in 0 1 2 3 4 5 6 7; do
        for field in median_ms min_ms tokens_per_s enqueue_us bytes flop flop_per_byte gb_per_s \
            gflop_per_s roofline_fraction max_rel_error; do
            json "results.$i.$field" >/dev/null
        done
        [ "$(json "results.$i.verified")" = true ]
    done
    [ "$(json results.0.heads) $(json results.0.batch) $(json results.0.context)" = "4 1 1" ]
    [ "$(json results.1.heads) $(json results.1.batch) $(json results.1.context)" = "4 1 70" ]
    [ "$(json results.7.heads) $(json results.7.batch) $(json results.7.context)" = "6 3 70" ]
    [ "$(json results.7.num_tokens)" = 3 ]
    [ "$(json skipped)" = "[]" ]
}

@test "--sweep --stages adds the attention stage's figures" {
    try_tiny --sweep --batches 3 --contexts 70 --stages --format json
    passes
    # bytes: 2 · (40 · 3 · 70 + 3 · 4 · (40 + 32)); operations: 2 · 3 · 70 · 4 · (2 · 32 + 8)
    for field in "gb_per_s 18528" "gflop_per_s 120960"; do
        awk -v ms="$(json results.0.attention_ms)" -v amount="${field#* }" \
            -v rate="$(json "results.0.attention_${field% *}")" \
            'BEGIN { r = rate * ms * 1e6 / amount; exit !(ms > 0 && r > 0.999 && r < 1.001) }'
    done
    try_tiny --sweep --batches 3 --contexts 70 --format json
    passes
    run json results.0.attention_ms
    [ "$status" -eq 1 ]
}

@test "--sweep as CSV and as a table, heads of the model" {
    try_tiny --sweep --batches 2 --contexts 5 --format csv
    passes
    [ "${#lines[@]}" -eq 2 ]
    [[ "${lines[0]}" == heads,batch,context,dtype,projection,kernels,runs,median_ms,min_ms,* ]]
    [[ "${lines[0]}" == *,device_read_gb_per_s,device_fma_gflop_per_s,verified,max_rel_error ]]
    [[ "${lines[1]}" == 4,2,5,bf16,* ]]
    try_tiny --sweep --batches 2 --contexts 5 --stages --layers 2
    passes
    [[ "${lines[1]}" =~ ^device\ measured:\ read\ [0-9.]+\ GB/s ]]
    [[ "${lines[-1]}" =~ ^stages\ of\ heads\ 4\ batch\ 2\ context\ 5,.*enqueue\ [0-9.e+]+\ us$ ]]
}

@test "--sweep skips what does not fit, and says why" {
    try_tiny --sweep --batches 65536 --contexts 16777216 --format json
    passes
    [[ "$stderr" == *"heads 4, batch 65536, context 16777216: skipped: a buffer of "* ]]
    [ "$(json skipped.0.batch)" = 65536 ]
    json skipped.0.reason >/dev/null
    [ "$(json results)" = "[]" ]
}

@test "--sweep with lists that are none, and with options it has no use for" {
    try_tiny --sweep --batches 1,0
    fails_with 2 "--batches '1,0'"
    try_tiny --sweep --contexts 1,x
    fails_with 2 "--contexts '1,x'"
    try_tiny --sweep --heads ,
    fails_with 2 "--heads ','"
    try_tiny --heads 3
    fails_with 2 "--heads: needs --sweep"
    try_tiny --sweep --case decode
    fails_with 2 "--case: does not go with --sweep"
    try_tiny --sweep --tp 2
    fails_with 2 "--tp: does not go with --sweep"
}

@test "--stages names the stages" {
    try_tiny --stages --case decode --mode batched --format json
    passes
    [ "$(json results.0.stages.0.stage)" = kv_a_proj_with_mqa ]
    json results.0.stages.0.median_ms >/dev/null
    json results.0.enqueue_us >/dev/null
}

@test "a time budget cuts the runs, and says so" {
    try bench --model "$(tiny)" --case prefill --mode batched --max-seconds 1 --runs 1000000 \
        --check off --format json
    passes
    [[ "$stderr" == *"--max-seconds 1"* ]]
    [ "$(json results.0.runs)" -ge 3 ]
    [ "$(json results.0.runs)" -lt 1000000 ]
}

@test "a kernel that computes wrongly is not timed" {
    [ -n "${CLMLA_KERNEL_SOURCES:-}" ] || skip "CLMLA_KERNEL_SOURCES is not set"
    cp -r "$CLMLA_KERNEL_SOURCES" kernels
    chmod -R u+w kernels
    sed -i -E 's/\<exp2?\(/exp10(/g' kernels/attention.clh kernels/*/attention*.cl # wrong softmax
    try_tiny --kernel-dir kernels --case prefill --mode batched
    fails_with 1 "wrong result, not timed" "prefill batched"
}

@test "FP8 where it does not go" {
    try_tiny --cache-dtype fp8
    fails_with 2 "--cache-dtype 'fp8'" "tiny.json has kv_lora_rank 32" "a multiple of 128"
    try_tiny --sweep --cache-dtype fp8
    fails_with 2 "--cache-dtype 'fp8'" "kv_lora_rank 32"
    for projection in clblast native,clblast; do
        try_tiny --weights-dtype fp8 --projection $projection
        fails_with 2 "--weights-dtype 'fp8'" "CLBlast takes no FP8 weights"
    done
    try_tiny --weights-dtype int8
    fails_with 2 "--weights-dtype 'int8'" "same or fp8"
    try_tiny --cache-dtype bf16
    fails_with 2 "--cache-dtype 'bf16'" "same or fp8"
}

@test "lists of different lengths" {
    try_tiny --case prefill --seqlens 1,2 --pastlens 0
    fails_with 2 "--seqlens '1,2' has 2" "--pastlens '0' has 1"
}

@test "lists that are not lists" {
    try_tiny --case prefill --seqlens 1,x --pastlens 0,0
    fails_with 2 "--seqlens '1,x'"
    try_tiny --case prefill --seqlens 1,0 --pastlens 0,0
    fails_with 2 "--seqlens '1,0'"
    try_tiny --case decode --pastlens 1,-1
    fails_with 2 "--pastlens '1,-1'"
}

@test "lists without a case, or only one of them" {
    try_tiny --seqlens 1 --pastlens 0
    fails_with 2 "--case"
    try_tiny --case prefill --seqlens 1
    fails_with 2 "--pastlens"
    try_tiny --case prefill --pastlens 1
    fails_with 2 "--seqlens"
}

@test "a config that is missing, no JSON, or not valid" {
    try bench --model nosuch.json
    fails_with 2 "--model 'nosuch.json'" "lite, r1"
    echo "{" >broken.json
    try bench --model broken.json
    fails_with 2 "broken.json"
    grep -v kv_lora_rank "$(tiny)" >missing.json
    try bench --model missing.json
    fails_with 2 "missing.json" "kv_lora_rank"
    sed 's/"v_head_dim": 16/"v_head_dim": -16/' "$(tiny)" >negative.json
    try bench --model negative.json
    fails_with 2 "negative.json" "v_head_dim" "-16"
    sed 's/"qk_rope_head_dim": 8/"qk_rope_head_dim": "8"/' "$(tiny)" >text.json
    try bench --model text.json
    fails_with 2 "text.json" "qk_rope_head_dim"
}

@test "values out of range" {
    for option in "runs 0" "warmup -1" "layers 0" "tp 0" "max-seconds 0" "runs many"; do
        # shellcheck disable=SC2086 # name and value
        set -- $option
        try_tiny "--$1" "$2"
        fails_with 2 "--$1 '$2'"
    done
    try_tiny --tp 3
    fails_with 2 "--tp '3'"
    try_tiny --case nosuch
    fails_with 2 "--case 'nosuch'" "prefill or decode"
    try_tiny --mode nosuch
    fails_with 2 "--mode 'nosuch'" "sequential or batched"
    try_tiny --check some
    fails_with 2 "--check 'some'" "full, sample or off"
    try_tiny --device 99
    fails_with 2 "--device '99'"
    try_tiny --platform nosuch
    fails_with 2 "--platform 'nosuch'"
}
