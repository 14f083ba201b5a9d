# Run by cpack on what is to be packed: what Debian's policy wants to be otherwise than
# cmake --install leaves it.
if(NOT CPACK_GENERATOR STREQUAL "DEB")
    return()
endif()
set(root ${CPACK_TEMPORARY_INSTALL_DIRECTORY}/usr)
set(documents ${root}/share/doc/${CPACK_PACKAGE_NAME})

# The system's directories need no search path of the program's own.
file(GLOB_RECURSE binaries ${root}/bin/* ${root}/lib/*.so.*)
foreach(binary IN LISTS binaries)
    if(NOT IS_SYMLINK ${binary})
        file(RPATH_REMOVE FILE ${binary})
    endif()
endforeach()

# dpkg-shlibdeps wants a source package's control file; the package's own libraries need no other.
set(work ${CPACK_TOPLEVEL_DIRECTORY}/shlibdeps)
file(WRITE ${work}/debian/control
    "Source: ${CPACK_PACKAGE_NAME}\n\nPackage: ${CPACK_PACKAGE_NAME}\nArchitecture: any\n")
file(READ ${CPACK_CLMLA_SHLIBS} shlibs)
string(REGEX REPLACE " ${CPACK_PACKAGE_NAME} [^\n]*" "" shlibs "${shlibs}")
file(WRITE ${work}/shlibs.local "${shlibs}")
set(libraries ${binaries})
list(FILTER libraries INCLUDE REGEX "\\.so\\.")
list(TRANSFORM libraries REPLACE "/[^/]*$" "")
list(REMOVE_DUPLICATES libraries)
list(TRANSFORM libraries PREPEND -l)
execute_process(COMMAND dpkg-shlibdeps -O -Lshlibs.local ${libraries} ${binaries}
    WORKING_DIRECTORY ${work} OUTPUT_VARIABLE found COMMAND_ERROR_IS_FATAL ANY)
if(NOT found MATCHES "shlibs:Depends=([^\n]*)")
    message(FATAL_ERROR "dpkg-shlibdeps names no dependencies: ${found}")
endif()
set(CPACK_DEBIAN_PACKAGE_DEPENDS "${CMAKE_MATCH_1}")

file(REMOVE ${documents}/LICENSE)
file(WRITE ${documents}/copyright
"Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: clmla

Files: *
Copyright: 2026 The authors of clmla
License: Apache-2.0
 Licensed under the Apache License, Version 2.0. On Debian systems its text is
 in /usr/share/common-licenses/Apache-2.0.
")

# SOURCE_DATE_EPOCH, where it is set, is the time.
string(TIMESTAMP now "%a, %d %b %Y %H:%M:%S +0000" UTC)
file(WRITE ${documents}/changelog.Debian
"${CPACK_PACKAGE_NAME} (${CPACK_PACKAGE_VERSION}-${CPACK_DEBIAN_PACKAGE_RELEASE}) unstable; urgency=medium

  * Version ${CPACK_PACKAGE_VERSION}.

 -- ${CPACK_PACKAGE_CONTACT}  ${now}
")
file(GLOB pages ${root}/share/man/man1/*.1)
foreach(file IN LISTS pages ITEMS ${documents}/changelog.Debian)
    execute_process(COMMAND gzip -9n ${file} COMMAND_ERROR_IS_FATAL ANY)
endforeach()
