# Included by CMakeLists.txt, whose lists of files and functions these sections use.

# ---- tests ----------------------------------------------------------------------------------------
if(CLMLA_BUILD_TESTS)
    enable_testing()
    find_package(cmocka REQUIRED)
    # Tests see every room's insides, hence a static library of all of them.
    add_library(clmla_internal STATIC ${CLMLA_ROOMS} $<TARGET_OBJECTS:clmla_model_room>
        $<TARGET_OBJECTS:clmla_ref_room>)
    list(TRANSFORM CLI_TESTED_FILES PREPEND src/cli/ OUTPUT_VARIABLE cli_paths)
    target_sources(clmla_internal PRIVATE ${cli_paths})
    target_include_directories(clmla_internal PRIVATE include src)
    clmla_compile_settings(clmla_internal)
    set_target_properties(clmla_internal PROPERTIES LINKER_LANGUAGE C)
    target_link_libraries(clmla_internal PUBLIC OpenCL::OpenCL clblast PkgConfig::JANSSON
        PkgConfig::POPT Threads::Threads m)
    add_library(clmla_test_support STATIC tests/support/support.c tests/support/device.c
        tests/support/table.c tests/support/attention_batch.c tests/support/layer_fixture.c
        tests/support/peer_batch.c)
    clmla_compile_settings(clmla_test_support)
    target_include_directories(clmla_test_support PUBLIC include src tests ${CMOCKA_INCLUDE_DIR})
    target_link_libraries(clmla_test_support PUBLIC clmla_internal ${CMOCKA_LIBRARIES})
    target_link_options(clmla_test_support PUBLIC -Wl,--wrap=_cmocka_run_group_tests)

    function(clmla_test name label)
        string(REPLACE "/" "_" target ${name})
        add_executable(${target} tests/${name}.c)
        clmla_compile_settings(${target})
        target_compile_definitions(${target} PRIVATE
            GOLDEN_DIR="${CMAKE_CURRENT_SOURCE_DIR}/tests/golden"
            TEST_OUTPUT_DIR="${CMAKE_CURRENT_BINARY_DIR}")
        # Case tables leave out the fields that are zero.
        target_compile_options(${target} PRIVATE -Wno-missing-field-initializers)
        target_link_libraries(${target} PRIVATE clmla_test_support)
        add_test(NAME ${name} COMMAND ${target})
        set_tests_properties(${name} PROPERTIES LABELS ${label} TIMEOUT 1200
            ENVIRONMENT "POCL_AFFINITY=1")
    endfunction()
    foreach(name IN LISTS UNIT_TESTS)
        clmla_test(${name} unit)
    endforeach()
    foreach(name IN LISTS DEVICE_TESTS)
        clmla_test(${name} device)
    endforeach()
    # What compiles for minutes on a CPU has label long: whole programs, and parts of others.
    set_property(TEST ops/test_clblast_operands APPEND PROPERTY LABELS long)
    # The cases of a test whose names match the pattern become a test of their own.
    function(clmla_long_part name test pattern labels)
        string(REPLACE "/" "_" program ${test})
        get_property(environment TEST ${test} PROPERTY ENVIRONMENT)
        if(environment MATCHES "CLMLA_TEST_WITHOUT=[^;]+") # of another part
            string(REPLACE "${CMAKE_MATCH_0}" "${CMAKE_MATCH_0}|${pattern}" environment
                "${environment}")
        else()
            list(APPEND environment "CLMLA_TEST_WITHOUT=${pattern}")
        endif()
        set_property(TEST ${test} PROPERTY ENVIRONMENT "${environment}")
        add_test(NAME ${name} COMMAND ${program})
        set_tests_properties(${name} PROPERTIES LABELS "${labels};long" TIMEOUT 1200
            ENVIRONMENT "POCL_AFFINITY=1;CLMLA_TEST_ONLY=${pattern}")
    endfunction()
    clmla_long_part(layer/invariance_of_gpu_dtypes layer/test_invariance "*gpu, *" device)
    clmla_long_part(ops/projection_on_other_devices ops/test_projection *_on_other_devices device)
    clmla_long_part(ops/clblast_given_parameters ops/test_projection_clblast given_parameters_*
        device)
    # Among the unit tests, which ThreadSanitizer runs.
    clmla_test(layer/test_threads unit)
    # PoCL 3.1 does not unpack a binary without harm into a cache that others fill at the same time.
    foreach(name IN ITEMS binary binary_damage binary_faults)
        set_property(TEST ocl/test_${name} APPEND PROPERTY ENVIRONMENT
            POCL_CACHE_DIR=${CMAKE_CURRENT_BINARY_DIR}/pocl-test-${name})
    endforeach()
    # A sample of the peers' matrices: by default on class cpu.
    set_property(TEST ops/test_attention_peers APPEND PROPERTY ENVIRONMENT
        "CLMLA_TEST_ONLY=* on cpu*")
    add_test(NAME ops/attention_peers_on_gpus COMMAND ops_test_attention_peers)
    set_tests_properties(ops/attention_peers_on_gpus PROPERTIES LABELS "device;long" TIMEOUT 1200
        ENVIRONMENT "POCL_AFFINITY=1;CLMLA_TEST_ONLY=* on gpu|* on nvidia")
    # Peers' matrices whole, in parts that take minutes.
    foreach(matrix IN ITEMS flash_mla flash_infer_page_attention_of_1_to_5
            flash_infer_page_attention_of_7 flash_infer_page_attention_of_157
            flash_infer_page_attention_ragged flash_infer_varying_lengths_of_3_and_9
            flash_infer_varying_lengths_of_15 flash_infer_varying_lengths_of_21
            flash_infer_varying_lengths_ragged flash_infer_pages_end_in_nan vllm other_dims)
        foreach(path IN ITEMS cpu cpu_float gpu nvidia)
            add_test(NAME ops/all_attention_peers_${matrix}_${path}
                COMMAND ops_test_attention_peers)
            set_tests_properties(ops/all_attention_peers_${matrix}_${path} PROPERTIES
                LABELS "device;slow" TIMEOUT 3600 ENVIRONMENT
                "POCL_AFFINITY=1;CLMLA_TEST_ALL=1;CLMLA_TEST_ONLY=${matrix}* on ${path}")
        endforeach()
    endforeach()
    foreach(name IN ITEMS layer/invariance layer/large_offsets layer/long_context ops/rope
            ops/weight_offsets)
        string(REPLACE "/" "/all_" all ${name})
        string(REPLACE "/" "_test_" program ${name})
        add_test(NAME ${all} COMMAND ${program})
        set_tests_properties(${all} PROPERTIES LABELS "device;slow" TIMEOUT 1200
            ENVIRONMENT "POCL_AFFINITY=1;CLMLA_TEST_ALL=1")
    endforeach()
    foreach(wrapped IN ITEMS clBuildProgram clCreateBuffer clEnqueueWriteBuffer clFinish
            clWaitForEvents)
        target_link_options(layer_test_promises PRIVATE -Wl,--wrap=${wrapped})
    endforeach()
    foreach(wrapped IN ITEMS write close rename mkstemp clGetDeviceInfo clCreateProgramWithBinary
            clBuildProgram)
        target_link_options(ocl_test_binary_faults PRIVATE -Wl,--wrap=${wrapped})
    endforeach()
    # Tensors larger than the device's largest buffer.
    foreach(name IN ITEMS layer_test_large_offsets ops_test_attention_offsets ops_test_offsets
            ops_test_weight_offsets)
        target_sources(${name} PRIVATE tests/support/sparse.c)
        target_link_options(${name} PRIVATE -Wl,--wrap=clGetMemObjectInfo)
    endforeach()
    target_link_options(ocl_test_program_sm_90a PRIVATE -Wl,--wrap=clGetProgramInfo
        -Wl,--wrap=clCreateProgramWithBinary)
    target_link_options(ops_test_projection_clblast PRIVATE -Wl,--wrap=CLBlastOverrideParameters)
    target_link_libraries(ops_test_projection_clblast PRIVATE clblast)
    target_link_libraries(ops_test_clblast_operands PRIVATE clblast ${CMAKE_DL_LIBS})
    target_sources(tools_test_packed_weights PRIVATE tools/gpu_report/cuda_data.c)
    target_include_directories(tools_test_packed_weights PRIVATE tools)
endif()

# ---- tests of the program -------------------------------------------------------------------------
set(CLI_TESTS bench bench_fp8 bench_kernels cache cache_together completion devices kernels main
    man memory report report_kernels run tune tune_search verify verify_classes weights weights_full)
if(CLMLA_BUILD_TESTS)
    add_executable(clmla_cli_probe tests/cli/probe.c)
    clmla_compile_settings(clmla_cli_probe)
    target_link_libraries(clmla_cli_probe PRIVATE clmla_model PkgConfig::JANSSON m)
    add_executable(clmla_make_checkpoint tests/cli/make_checkpoint.c)
    clmla_compile_settings(clmla_make_checkpoint)
    target_include_directories(clmla_make_checkpoint PRIVATE include src)
    target_link_libraries(clmla_make_checkpoint PRIVATE clmla_internal)
    set(cli_environment CLMLA=$<TARGET_FILE:clmla-cli> CLMLA_PROBE=$<TARGET_FILE:clmla_cli_probe>
        CLMLA_MAKE_CHECKPOINT=$<TARGET_FILE:clmla_make_checkpoint>
        GOLDEN_DIR=${CMAKE_CURRENT_SOURCE_DIR}/tests/golden
        CLMLA_KERNEL_SOURCES=${CMAKE_CURRENT_SOURCE_DIR}/cl
        CLMLA_MAN=${CMAKE_CURRENT_BINARY_DIR}/clmla.1)
    if(UNIX AND NOT CLMLA_SANITIZER) # preloaded
        foreach(what IN ITEMS context buffer)
            add_library(clmla_failing_${what} MODULE tests/cli/failing_${what}.c)
            clmla_compile_settings(clmla_failing_${what})
            set_target_properties(clmla_failing_${what} PROPERTIES C_VISIBILITY_PRESET default)
            target_link_libraries(clmla_failing_${what} PRIVATE OpenCL::OpenCL ${CMAKE_DL_LIBS})
        endforeach()
        list(APPEND cli_environment
            CLMLA_FAILING_BUFFER=$<TARGET_FILE:clmla_failing_buffer>
            CLMLA_FAILING_CONTEXT=$<TARGET_FILE:clmla_failing_context>)
    endif()
    clmla_test(cli/test_arguments cli)
    add_dependencies(cli_test_arguments clmla-cli)
    target_compile_definitions(cli_test_arguments PRIVATE
        CLMLA_PROGRAM="$<TARGET_FILE:clmla-cli>")
    add_test(NAME cli/all_arguments COMMAND cli_test_arguments)
    set_tests_properties(cli/all_arguments PROPERTIES LABELS "cli;slow" TIMEOUT 1200
        ENVIRONMENT CLMLA_TEST_ALL=1)
    set_tests_properties(cli/test_arguments cli/all_arguments PROPERTIES RESOURCE_LOCK arguments)
    find_program(CLMLA_BATS bats DOC "bats-core, for the tests of the program")
    if(CLMLA_BATS)
        foreach(name IN LISTS CLI_TESTS)
            add_test(NAME cli/${name}
                COMMAND ${CLMLA_BATS} ${CMAKE_CURRENT_SOURCE_DIR}/tests/cli/${name}.bats)
            set_tests_properties(cli/${name} PROPERTIES LABELS cli TIMEOUT 1200
                ENVIRONMENT "${cli_environment}")
        endforeach()
        set_property(TEST cli/bench_fp8 cli/bench_kernels cli/cache_together cli/report_kernels
            cli/tune_search cli/verify_classes APPEND PROPERTY LABELS long)
        set_property(TEST cli/weights_full APPEND PROPERTY LABELS slow)
        foreach(name IN ITEMS cache cache_together) # as ocl/test_binary
            set_property(TEST cli/${name} APPEND PROPERTY ENVIRONMENT
                POCL_CACHE_DIR=${CMAKE_CURRENT_BINARY_DIR}/pocl-cli-${name})
        endforeach()
    else()
        message(STATUS "bats not found: the program's tests are left out")
    endif()
    if(UNIX AND NOT CLMLA_SANITIZER)
        add_test(NAME cli/start_time COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/tests/cli/start_time.sh
            $<TARGET_FILE:clmla-cli> 0.9)
        set_tests_properties(cli/start_time PROPERTIES LABELS "cli;slow" TIMEOUT 300
            RUN_SERIAL TRUE SKIP_REGULAR_EXPRESSION "skipped: ")
    endif()
endif()

# ---- tests of the kernels as OpenCL C --------------------------------------------------------------
if(CLMLA_BUILD_TESTS)
    find_program(CLMLA_CLANG NAMES clang-14 clang clang-19 clang-18 clang-17 clang-16 clang-15
        DOC "clang, to parse the kernels without a driver")
    set(kernel_tests ${CMAKE_CURRENT_SOURCE_DIR}/tests/kernels)
    if(CLMLA_CLANG)
        add_test(NAME kernels/syntax
            COMMAND ${kernel_tests}/check_syntax.sh ${CLMLA_CLANG} ${CMAKE_CURRENT_SOURCE_DIR}/cl
                ${kernel_tests}/programs.txt)
    else()
        add_test(NAME kernels/syntax
            COMMAND ${CMAKE_COMMAND} -E echo "skipped: clang is not installed")
        set_tests_properties(kernels/syntax PROPERTIES SKIP_REGULAR_EXPRESSION "skipped: ")
    endif()
    set_tests_properties(kernels/syntax PROPERTIES LABELS unit TIMEOUT 300)
endif()

# ---- the kernels by compilers of GPUs ---------------------------------------------------------------
# Down to machine code, without a GPU: registers, spills and local memory against the budgets of
# ptx_programs.txt. The scripts look for the compilers and say so when they skip.
if(CLMLA_BUILD_TESTS)
    function(clmla_compiler_test name script)
        add_test(NAME ${name} COMMAND ${kernel_tests}/${script} ${CMAKE_CURRENT_SOURCE_DIR}/cl
            ${kernel_tests}/ptx_programs.txt ${ARGN})
        set_tests_properties(${name} PROPERTIES LABELS slow TIMEOUT 600
            SKIP_REGULAR_EXPRESSION "skipped: ")
    endfunction()
    foreach(target IN ITEMS sm_80 sm_89 sm_90 sm_120)
        clmla_compiler_test(ptx/${target} check_ptx.sh ${target})
        set_tests_properties(ptx/${target} PROPERTIES LABELS "ptx;slow")
    endforeach()
    set_tests_properties(ptx/sm_90 PROPERTIES LABELS ptx)
    # Those that the library has rebuilt, by its own code.
    add_executable(clmla_retarget tests/kernels/retarget.c src/ocl/retarget.c)
    clmla_compile_settings(clmla_retarget)
    target_include_directories(clmla_retarget PRIVATE src)
    add_test(NAME ptx/sm_90a COMMAND ${kernel_tests}/check_ptx.sh ${CMAKE_CURRENT_SOURCE_DIR}/cl
        ${kernel_tests}/ptx_sm_90a_programs.txt sm_90a $<TARGET_FILE:clmla_retarget>)
    set_tests_properties(ptx/sm_90a PROPERTIES LABELS ptx TIMEOUT 600
        SKIP_REGULAR_EXPRESSION "skipped: ")
    foreach(target IN ITEMS gfx942 gfx1100)
        clmla_compiler_test(amd/${target} check_amd.sh ${target})
    endforeach()
    foreach(target IN ITEMS dg2 pvc)
        clmla_compiler_test(intel/${target} check_intel.sh ${CMAKE_CURRENT_BINARY_DIR}/ocloc
            ${target})
    endforeach()
endif()

# ---- golden cases ---------------------------------------------------------------------------------
# clmla verify over tests/golden: every small case with every dtype, backend and kernel class; the
# full-size ones (29-32) with every dtype and backend.
if(CLMLA_BUILD_TESTS)
    file(GLOB golden_small CONFIGURE_DEPENDS tests/golden/[01]*.safetensors
        tests/golden/2[0-8]*.safetensors)
    file(GLOB golden_full CONFIGURE_DEPENDS tests/golden/29*.safetensors
        tests/golden/3*.safetensors)
    function(clmla_golden_test name files)
        add_test(NAME golden/${name} COMMAND clmla-cli verify ${ARGN} ${files})
        set_tests_properties(golden/${name} PROPERTIES LABELS golden TIMEOUT 900
            ENVIRONMENT "POCL_AFFINITY=1;CLMLA_CACHE_DIR=;CLMLA_TUNING_DIR=")
    endfunction()
    foreach(dtype IN ITEMS bf16 f16 f32)
        foreach(projection IN ITEMS native clblast)
            set(options --dtype ${dtype} --projection ${projection})
            foreach(kernels IN ITEMS cpu gpu)
                clmla_golden_test(small_${dtype}_${projection}_${kernels} "${golden_small}"
                    ${options} --kernels ${kernels})
            endforeach()
            clmla_golden_test(full_${dtype}_${projection} "${golden_full}" ${options})
        endforeach()
    endforeach()
    # Class gpu compiles for long on a CPU: by default one dtype, without CLBlast.
    foreach(name IN ITEMS bf16_clblast f16_native f16_clblast f32_native f32_clblast)
        set_property(TEST golden/small_${name}_gpu APPEND PROPERTY LABELS long)
    endforeach()
    clmla_golden_test(small_contiguous "${golden_small}" --page-block-size 0)

    # Kernels for tensor cores, their PTX emulated: few cases, or all of them with label slow.
    set(nvidia --kernels nvidia --projection native)
    set(golden_reduced ${golden_small})
    list(FILTER golden_reduced INCLUDE REGEX "/(05|07|17|20)_")
    add_test(NAME emulated/golden COMMAND clmla-cli verify ${nvidia} ${golden_reduced})
    list(FILTER golden_reduced INCLUDE REGEX "_decode")
    add_test(NAME emulated/golden_one_launch COMMAND clmla-cli verify ${nvidia} --one-launch
        ${golden_reduced})
    add_test(NAME emulated/golden_all COMMAND clmla-cli verify ${nvidia} ${golden_small})
    set_tests_properties(emulated/golden emulated/golden_one_launch emulated/golden_all
        PROPERTIES LABELS emulated TIMEOUT 1800 ENVIRONMENT "POCL_AFFINITY=1;CLMLA_CACHE_DIR=;CLMLA_TUNING_DIR=")
    set_property(TEST emulated/golden emulated/golden_one_launch APPEND PROPERTY LABELS long)
    set_property(TEST emulated/golden_all APPEND PROPERTY LABELS slow)
endif()

# ---- faults ---------------------------------------------------------------------------------------
# tests/faults: every call of OpenCL and CLBlast fails once. The functions are wrapped when the tests
# are linked.
set(fault_functions clBuildProgram clCreateBuffer clCreateCommandQueue clCreateContext clCreateKernel
    clCreateProgramWithBinary clCreateProgramWithSource clCreateSubBuffer clEnqueueBarrierWithWaitList
    clEnqueueFillBuffer clEnqueueMarkerWithWaitList clEnqueueNDRangeKernel clEnqueueReadBuffer
    clEnqueueWriteBuffer clEnqueueWriteBufferRect clFinish clGetCommandQueueInfo clGetContextInfo
    clGetDeviceInfo clGetEventInfo clGetMemObjectInfo clGetPlatformInfo clGetProgramBuildInfo
    clGetProgramInfo clReleaseCommandQueue clReleaseContext clReleaseDevice clReleaseEvent
    clReleaseKernel clReleaseMemObject clReleaseProgram clRetainContext clRetainDevice
    clRetainMemObject clSetKernelArg clWaitForEvents CLBlastOverrideParameters
    CLBlastSGemmTempBufferSize CLBlastSgemm CLBlastSgemmStridedBatched CLBlastSgemmWithTempBuffer)
if(CLMLA_BUILD_TESTS AND CMAKE_C_COMPILER_ID MATCHES "GNU|Clang" AND NOT APPLE)
    foreach(name IN ITEMS device_memory failed_events objects steps)
        clmla_test(faults/test_${name} device)
        target_sources(faults_test_${name} PRIVATE tests/faults/scenario.c tests/faults/opencl.c
            tests/faults/memory.c tests/faults/ops.c)
        foreach(function IN LISTS fault_functions ITEMS malloc calloc realloc strdup free)
            target_link_options(faults_test_${name} PRIVATE -Wl,--wrap=${function})
        endforeach()
    endforeach()
    # The longest of the default check: it begins before the others do.
    set_tests_properties(faults/test_objects PROPERTIES COST 100)
    # Where the driver is PoCL, a device whose largest buffer is 256 MiB.
    set_property(TEST faults/test_device_memory APPEND PROPERTY ENVIRONMENT POCL_MEMORY_LIMIT=1)
    # By default calls are failed in steps where they are many and slow.
    function(clmla_all_faults name program only)
        add_test(NAME faults/all_${name} COMMAND faults_test_${program})
        set_tests_properties(faults/all_${name} PROPERTIES LABELS "device;slow" TIMEOUT 3600
            ENVIRONMENT "POCL_AFFINITY=1;CLMLA_FAULTS_ALL=1;CLMLA_TEST_ONLY=${only}")
    endfunction()
    clmla_all_faults(steps steps "*")
    clmla_all_faults(objects_cpu objects "cpu*")
    clmla_all_faults(objects_gpu objects "gpu*")
    clmla_all_faults(objects_nvidia objects "nvidia*splits")
    clmla_all_faults(objects_sm_90a objects "*sm_90a")
    # The same count of what lives, over many steps.
    clmla_test(layer/test_soak device)
    target_sources(layer_test_soak PRIVATE tests/faults/opencl.c)
    if(CLMLA_SANITIZER)
        target_compile_definitions(layer_test_soak PRIVATE TEST_SANITIZED)
    endif()
    foreach(function IN LISTS fault_functions)
        target_link_options(layer_test_soak PRIVATE -Wl,--wrap=${function})
    endforeach()
    add_test(NAME layer/all_soak COMMAND layer_test_soak)
    set_tests_properties(layer/all_soak PROPERTIES LABELS "device;slow" TIMEOUT 1800
        ENVIRONMENT "POCL_AFFINITY=1;CLMLA_TEST_ALL=1")
    if(BUILD_SHARED_LIBS AND NOT CLMLA_SANITIZER)
        add_test(NAME faults/list COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/tests/faults/check_list.sh
            $<TARGET_FILE:clmla> ${fault_functions})
        set_tests_properties(faults/list PROPERTIES LABELS unit)
    endif()
endif()

# ---- class nvidia, emulated -----------------------------------------------------------------------
# Its kernels compile for minutes on a CPU. By default api/engine_nvidia and ptx/ stand for them; the
# golden cases above and the rest have label long: whole programs, and of those with other classes
# too the cases that have nvidia in their names.
if(CLMLA_BUILD_TESTS)
    foreach(name IN ITEMS layer/test_one_launch ops/test_attention_wgmma ops/test_projection_mma
            ops/test_projection_pair ops/test_projection_wgmma)
        set_property(TEST ${name} APPEND PROPERTY LABELS emulated long)
    endforeach()
    set(emulated_parts layer_test_layer layer_test_invariance layer_test_large_offsets
        layer_test_promises layer_test_scaled_hidden ops_test_attention ops_test_attention_bits
        ops_test_attention_matrix ops_test_recorded_tiles)
    if(TARGET faults_test_objects)
        list(APPEND emulated_parts faults_test_objects faults_test_steps)
    endif()
    foreach(program IN LISTS emulated_parts)
        string(REPLACE "_test_" "/test_" name ${program})
        string(REPLACE "_test_" "_" part emulated/${program})
        clmla_long_part(${part} ${name} *nvidia* "device;emulated")
    endforeach()
endif()

# ---- hostile input -----------------------------------------------------------------------------
# tests/fuzz: each target fed with what its corpus holds. CLMLA_FUZZ links them with libFuzzer, too
# (clang; tools/fuzz.sh).
option(CLMLA_FUZZ "Build the fuzz targets with libFuzzer, which needs clang" OFF)
if(CLMLA_BUILD_TESTS)
    set(fuzz ${CMAKE_CURRENT_SOURCE_DIR}/tests/fuzz)
    foreach(name IN ITEMS safetensors index config golden tuning)
        add_executable(fuzz_replay_${name} tests/fuzz/replay.c)
        set(programs fuzz_replay_${name})
        if(CLMLA_FUZZ)
            add_executable(fuzz_${name})
            target_link_options(fuzz_${name} PRIVATE -fsanitize=fuzzer)
            list(APPEND programs fuzz_${name})
        endif()
        foreach(program IN LISTS programs)
            target_sources(${program} PRIVATE tests/fuzz/fuzz_${name}.c tests/fuzz/common.c)
            clmla_compile_settings(${program})
            target_compile_definitions(${program} PRIVATE
                FUZZ_GOLDEN="${CMAKE_CURRENT_SOURCE_DIR}/tests/golden/02_tiny_decode.safetensors")
            target_include_directories(${program} PRIVATE include src tests)
            target_link_libraries(${program} PRIVATE clmla_internal)
        endforeach()
        add_test(NAME fuzz/${name} COMMAND fuzz_replay_${name} ${fuzz}/corpus/${name})
        set_tests_properties(fuzz/${name} PROPERTIES LABELS unit TIMEOUT 120)
    endforeach()
endif()

# ---- oclgrind -------------------------------------------------------------------------------------
if(CLMLA_BUILD_TESTS)
    add_subdirectory(tests/oclgrind)
endif()

# ---- valgrind -------------------------------------------------------------------------------------
# Three small commands; the first of them on an empty cache compile for minutes.
if(CLMLA_BUILD_TESTS)
    find_program(CLMLA_VALGRIND valgrind DOC "valgrind, for three commands of the program")
    set(valgrind_missing "")
    if(CLMLA_SANITIZER)
        set(valgrind_missing "sanitizers are on")
    elseif(NOT CLMLA_VALGRIND)
        set(valgrind_missing "valgrind is not installed")
    endif()
    function(clmla_valgrind_test name)
        if(valgrind_missing)
            add_test(NAME valgrind/${name}
                COMMAND ${CMAKE_COMMAND} -E echo "skipped: ${valgrind_missing}")
        else()
            add_test(NAME valgrind/${name}
                COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/tests/valgrind/check.sh $<TARGET_FILE:clmla-cli>
                    ${CMAKE_CURRENT_BINARY_DIR}/valgrind ${ARGN})
        endif()
        set_tests_properties(valgrind/${name} PROPERTIES LABELS slow TIMEOUT 1800
            SKIP_REGULAR_EXPRESSION "skipped: ")
    endfunction()
    clmla_valgrind_test(devices devices)
    clmla_valgrind_test(verify
        verify ${CMAKE_CURRENT_SOURCE_DIR}/tests/golden/01_tiny_prefill.safetensors)
    clmla_valgrind_test(bench bench --model tiny.json --projection native --case decode
        --mode batched --seqlens 1 --pastlens 4 --warmup 0 --runs 3 --max-seconds 1)
endif()

# ---- tests of the package -------------------------------------------------------------------------
# The headers alone, the exported names, and host applications that use clmla in each way. A library
# with sanitizers would need host applications with them, so those run without.
if(CLMLA_BUILD_TESTS)
    set(header_flags -Wall -Wextra -Wpedantic -Werror -fsyntax-only
        -I${CMAKE_CURRENT_SOURCE_DIR}/include)
    foreach(folder IN LISTS OpenCL_INCLUDE_DIRS)
        if(NOT folder IN_LIST CMAKE_C_IMPLICIT_INCLUDE_DIRECTORIES)
            list(APPEND header_flags -isystem ${folder})
        endif()
    endforeach()
    find_program(CLMLA_CXX_COMPILER NAMES c++ g++ clang++ DOC "C++ compiler for the header tests")
    foreach(header IN ITEMS clmla clmla_ops clmla_model)
        set(file ${CMAKE_CURRENT_SOURCE_DIR}/include/${header}.h)
        add_test(NAME api/${header}_h_is_c11
            COMMAND ${CMAKE_C_COMPILER} -x c -std=c11 ${header_flags} ${file})
        set_tests_properties(api/${header}_h_is_c11 PROPERTIES LABELS api)
        if(CLMLA_CXX_COMPILER)
            add_test(NAME api/${header}_h_is_cxx17
                COMMAND ${CLMLA_CXX_COMPILER} -x c++ -std=c++17 ${header_flags} ${file})
            set_tests_properties(api/${header}_h_is_cxx17 PROPERTIES LABELS api)
        else()
            message(STATUS "No C++ compiler: ${header}.h is not tested as C++17")
        endif()
    endforeach()
    set(api_tests ${CMAKE_CURRENT_SOURCE_DIR}/tests/api)
    add_test(NAME api/readme_shows_the_tested_example
        COMMAND ${api_tests}/check_readme.sh ${CMAKE_CURRENT_SOURCE_DIR}/README.md
            ${api_tests}/embed.c)
    set_tests_properties(api/readme_shows_the_tested_example PROPERTIES LABELS api)

    # The engine of tests/api/engine, every step against the reference.
    set(engine_files device.c pages.c model.c shard.c engine.c schedule.c step.c example.c)
    list(TRANSFORM engine_files PREPEND tests/api/engine/)
    add_executable(engine_check tests/api/engine/check.c ${engine_files})
    clmla_compile_settings(engine_check)
    target_link_libraries(engine_check PRIVATE clmla_internal)
    target_include_directories(engine_check PRIVATE include src)
    foreach(kernels IN ITEMS cpu gpu nvidia)
        add_test(NAME api/engine_${kernels} COMMAND engine_check ${kernels})
        set_tests_properties(api/engine_${kernels} PROPERTIES LABELS "api;device" TIMEOUT 600
            ENVIRONMENT "POCL_AFFINITY=1")
    endforeach()
    set_tests_properties(api/engine_nvidia PROPERTIES LABELS "api;emulated")

    # Shards in processes of their own. Open MPI's limits for roots and for more ranks than cores are
    # lifted for the test alone. Sanitizers would report what MPI itself leaves behind.
    find_package(MPI COMPONENTS C)
    set(mpi_missing "")
    if(CLMLA_SANITIZER)
        set(mpi_missing "sanitizers are on")
    elseif(NOT MPI_C_FOUND OR NOT MPIEXEC_EXECUTABLE)
        set(mpi_missing "MPI is not installed")
    else()
        set(mpi_files device.c model.c shard.c tensor_parallel_mpi.c)
        list(TRANSFORM mpi_files PREPEND tests/api/engine/)
        add_executable(tensor_parallel_mpi ${mpi_files})
        clmla_compile_settings(tensor_parallel_mpi)
        target_link_libraries(tensor_parallel_mpi PRIVATE clmla MPI::MPI_C m)
    endif()
    foreach(ranks IN ITEMS 2 4)
        set(name api/tensor_parallel_mpi_${ranks})
        if(mpi_missing)
            add_test(NAME ${name} COMMAND ${CMAKE_COMMAND} -E echo "skipped: ${mpi_missing}")
            set_tests_properties(${name} PROPERTIES SKIP_REGULAR_EXPRESSION "skipped: ")
        else()
            add_test(NAME ${name} COMMAND ${MPIEXEC_EXECUTABLE} ${MPIEXEC_NUMPROC_FLAG} ${ranks}
                $<TARGET_FILE:tensor_parallel_mpi>)
            set_tests_properties(${name} PROPERTIES TIMEOUT 300 PROCESSORS 2 ENVIRONMENT
                "OMPI_ALLOW_RUN_AS_ROOT=1;OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1;OMPI_MCA_rmaps_base_oversubscribe=1")
        endif()
        set_tests_properties(${name} PROPERTIES LABELS "api;device")
    endforeach()

    if(BUILD_SHARED_LIBS AND NOT CLMLA_SANITIZER)
        set(include ${CMAKE_CURRENT_SOURCE_DIR}/include)
        set(clmla_headers ${include}/clmla.h ${include}/clmla_ops.h)
        set(clmla_model_headers ${include}/clmla_model.h)
        foreach(library IN ITEMS clmla clmla_model)
            add_test(NAME api/${library}_exports_its_headers
                COMMAND ${api_tests}/check_exports.sh $<TARGET_FILE:${library}>
                    ${${library}_headers})
            set_tests_properties(api/${library}_exports_its_headers PROPERTIES LABELS api)
        endforeach()
    endif()
    if(NOT CLMLA_SANITIZER)
        set(work ${CMAKE_CURRENT_BINARY_DIR}/api)
        file(MAKE_DIRECTORY ${work})
        set(kind static)
        if(BUILD_SHARED_LIBS)
            set(kind shared)
        endif()
        add_test(NAME api/install
            COMMAND ${api_tests}/run_embedding.sh install ${CMAKE_CURRENT_BINARY_DIR} ${kind} ${work})
        set_tests_properties(api/install PROPERTIES LABELS api FIXTURES_SETUP installed)
        foreach(mode IN ITEMS find_package pkg_config add_subdirectory static)
            add_test(NAME api/${mode}
                COMMAND ${api_tests}/run_embedding.sh ${mode} ${CMAKE_CURRENT_SOURCE_DIR} ${kind}
                    ${work} ${CMAKE_C_COMPILER})
            set_tests_properties(api/${mode} PROPERTIES LABELS api TIMEOUT 600
                ENVIRONMENT "POCL_AFFINITY=1")
        endforeach()
        set_tests_properties(api/find_package api/pkg_config PROPERTIES
            FIXTURES_REQUIRED installed)
        add_test(NAME api/vcpkg
            COMMAND ${CMAKE_COMMAND} -DSOURCE=${CMAKE_CURRENT_SOURCE_DIR} -DWORK=${work}/vcpkg
                -DGENERATOR=${CMAKE_GENERATOR} -P ${api_tests}/check_vcpkg.cmake)
        set_tests_properties(api/vcpkg PROPERTIES LABELS api)
        add_test(NAME api/deb
            COMMAND ${api_tests}/check_deb.sh ${CMAKE_CURRENT_BINARY_DIR} ${work})
        set_tests_properties(api/deb PROPERTIES LABELS api TIMEOUT 300
            SKIP_REGULAR_EXPRESSION "skipped: ")
        set_tests_properties(api/static PROPERTIES LABELS "api;slow") # builds everything again
    endif()
endif()
