# Writes OUTPUT, a C file with the commit of SOURCE: cmake -DSOURCE= -DOUTPUT= -DCOMMIT= -P commit.cmake
#
# COMMIT, when not empty, is taken instead of asking git: for builds of a source archive. A commit
# of another project that holds SOURCE as a folder is not taken for clmla's.
set(commit "${COMMIT}")
find_program(GIT git)
if(commit STREQUAL "" AND GIT)
    execute_process(COMMAND ${GIT} rev-parse --show-prefix WORKING_DIRECTORY ${SOURCE}
        RESULT_VARIABLE failed OUTPUT_VARIABLE prefix OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
    if(failed EQUAL 0 AND prefix STREQUAL "")
        execute_process(
            COMMAND ${GIT} --no-optional-locks describe --always --dirty --abbrev=12 --exclude *
            WORKING_DIRECTORY ${SOURCE} OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE
            ERROR_QUIET)
    endif()
endif()
if(NOT commit MATCHES "^[0-9A-Za-z._-]*$")
    message(FATAL_ERROR "the commit '${commit}' has characters other than letters, digits and . _ -")
endif()
set(text "/* By tools/commit.cmake. */\nextern const char mla_commit[];\nconst char mla_commit[] = \"${commit}\";\n")
set(old "")
if(EXISTS ${OUTPUT})
    file(READ ${OUTPUT} old)
endif()
if(NOT text STREQUAL old) # else what depends on it would be built again
    file(WRITE ${OUTPUT} "${text}")
endif()
