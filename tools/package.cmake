# Packages of what is installed: cpack in the build directory. A .deb where dpkg is, else an archive.
#
# One Debian package holds program, libraries and headers: the ABI is not promised between minor
# versions yet, so separate packages could not be mixed.
set(CPACK_PACKAGE_NAME clmla)
set(CPACK_PACKAGE_VENDOR clmla)
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY ${PROJECT_DESCRIPTION})
set(CPACK_PACKAGE_DESCRIPTION
    "clmla computes the Multi-head Latent Attention layer of DeepSeek-V2, V3 and R1
on any device that exposes OpenCL 1.2: GPUs, and CPUs through PoCL. The
package has the program clmla, which measures and verifies devices, and the C
libraries libclmla and libclmla_model with headers, CMake package and
pkg-config files.")
set(CPACK_PACKAGE_CONTACT "${CLMLA_MAINTAINER}")
set(CPACK_RESOURCE_FILE_LICENSE ${CMAKE_CURRENT_SOURCE_DIR}/LICENSE)
set(CPACK_STRIP_FILES ON)
set(CPACK_VERBATIM_VARIABLES ON)
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ
    GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)

find_program(CLMLA_DPKG_DEB dpkg-deb DOC "for packages of Debian")
set(CPACK_GENERATOR TGZ)
if(CLMLA_DPKG_DEB)
    set(CPACK_GENERATOR DEB)
endif()
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_RELEASE 1)
set(CPACK_DEBIAN_PACKAGE_SECTION science)
set(CPACK_DEBIAN_PACKAGE_PRIORITY optional)
set(CPACK_DEBIAN_PACKAGE_RECOMMENDS "pocl-opencl-icd | opencl-icd")
set(CPACK_DEBIAN_PACKAGE_SUGGESTS "ocl-icd-opencl-dev | opencl-dev, opencl-c-headers, pkg-config")
# Not CPACK_DEBIAN_PACKAGE_SHLIBDEPS or _GENERATE_SHLIBS: with them cpack writes scripts that call
# ldconfig, where policy wants a trigger. package_debian.cmake looks for the dependencies.
set(control ${CMAKE_CURRENT_BINARY_DIR}/debian)
set(CPACK_CLMLA_SHLIBS ${control}/shlibs)
set(CPACK_DEBIAN_PACKAGE_CONTROL_EXTRA ${control}/triggers ${control}/shlibs)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
file(WRITE ${control}/triggers "activate-noawait ldconfig\n")
file(WRITE ${control}/shlibs "")
foreach(library IN LISTS installed)
    file(APPEND ${control}/shlibs "lib${library} ${soversion} ${CPACK_PACKAGE_NAME} "
        "(= ${PROJECT_VERSION}-${CPACK_DEBIAN_PACKAGE_RELEASE})\n")
endforeach()
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_PRE_BUILD_SCRIPTS ${CMAKE_CURRENT_SOURCE_DIR}/tools/package_debian.cmake)
include(CPack)
