# What can be checked of the vcpkg port without vcpkg: its files agree with each other and with the
# project, and its script runs, with vcpkg's functions replaced by ones that look at their arguments.
#
#   cmake -DSOURCE=<clmla> -DWORK=<folder> -DGENERATOR=<of CMake> -P check_vcpkg.cmake
cmake_minimum_required(VERSION 3.22)
set(port ${SOURCE}/tools/vcpkg/clmla)
file(READ ${SOURCE}/CMakeLists.txt project)
file(READ ${port}/vcpkg.json manifest)

# ---- the manifest ---------------------------------------------------------------------------------
string(JSON name GET "${manifest}" name) # stops at what is no JSON
string(JSON version GET "${manifest}" version)
if(NOT project MATCHES "project\\(${name} VERSION ${version} ")
    message(SEND_ERROR "vcpkg.json is of ${name} ${version}, CMakeLists.txt of another")
endif()
set(features "")
string(JSON count LENGTH "${manifest}" features)
math(EXPR last "${count} - 1")
foreach(i RANGE ${last})
    string(JSON feature MEMBER "${manifest}" features ${i})
    string(JSON description GET "${manifest}" features ${feature} description)
    list(APPEND features ${feature})
endforeach()

# ---- vcpkg's functions ----------------------------------------------------------------------------
function(vcpkg_check_features)
    cmake_parse_arguments(A "" OUT_FEATURE_OPTIONS FEATURES ${ARGN})
    set(mapped "")
    set(options "")
    while(A_FEATURES)
        list(POP_FRONT A_FEATURES feature option)
        list(APPEND mapped ${feature})
        set(value OFF)
        if(feature IN_LIST FEATURES)
            set(value ON)
        endif()
        list(APPEND options -D${option}=${value})
    endwhile()
    if(NOT mapped STREQUAL "${features}")
        message(SEND_ERROR "portfile.cmake has features ${mapped}, vcpkg.json ${features}")
    endif()
    set(${A_OUT_FEATURE_OPTIONS} ${options} PARENT_SCOPE)
endfunction()

# Configures for real: CMake names the options that the project does not have.
function(vcpkg_cmake_configure)
    cmake_parse_arguments(A "" SOURCE_PATH OPTIONS ${ARGN})
    file(REMOVE_RECURSE ${WORK})
    execute_process(COMMAND ${CMAKE_COMMAND} -S ${A_SOURCE_PATH} -B ${WORK} -G ${GENERATOR}
            -DBUILD_SHARED_LIBS=OFF -DCMAKE_BUILD_TYPE=Release ${A_OPTIONS}
        OUTPUT_QUIET ERROR_VARIABLE complaints COMMAND_ERROR_IS_FATAL ANY)
    if(NOT complaints STREQUAL "")
        message(SEND_ERROR "${A_OPTIONS}: ${complaints}")
    endif()
endfunction()

function(vcpkg_cmake_config_fixup)
    cmake_parse_arguments(A "" CONFIG_PATH "" ${ARGN})
    file(READ ${WORK}/installed.txt list)
    if(NOT list MATCHES "\n${A_CONFIG_PATH}/clmlaConfig.cmake\n")
        message(SEND_ERROR "CONFIG_PATH ${A_CONFIG_PATH}: clmlaConfig.cmake is installed elsewhere")
    endif()
endfunction()

function(vcpkg_copy_tools)
    cmake_parse_arguments(A AUTO_CLEAN "" TOOL_NAMES ${ARGN})
    foreach(tool IN LISTS A_TOOL_NAMES)
        if(NOT project MATCHES "OUTPUT_NAME ${tool} ")
            message(SEND_ERROR "the project has no program ${tool}")
        endif()
    endforeach()
endfunction()

function(vcpkg_install_copyright)
    cmake_parse_arguments(A "" "" FILE_LIST ${ARGN})
    foreach(file IN LISTS A_FILE_LIST)
        if(NOT EXISTS ${file})
            message(SEND_ERROR "no such file: ${file}")
        endif()
    endforeach()
endfunction()

function(vcpkg_cmake_install)
endfunction()

function(vcpkg_fixup_pkgconfig)
endfunction()

# ---- the script, with no feature, each and all ----------------------------------------------------
set(PORT ${name})
set(CURRENT_PACKAGES_DIR ${WORK}/packages)
foreach(FEATURES IN ITEMS core "core;model" "core;model;cli")
    include(${port}/portfile.cmake)
endforeach()

file(READ ${CURRENT_PACKAGES_DIR}/share/${name}/usage usage)
string(REGEX MATCHALL "clmla::[a-z_]+" targets "${usage}")
foreach(target IN LISTS targets)
    if(NOT project MATCHES "add_library\\(${target} ALIAS")
        message(SEND_ERROR "usage: the project has no target ${target}")
    endif()
endforeach()
