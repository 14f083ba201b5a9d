# What cmake --install puts where; tests/api/installed.txt.in lists it.
set(installed clmla)
set(installed_headers include/clmla.h include/clmla_ops.h)
if(CLMLA_BUILD_MODEL)
    list(APPEND installed clmla_model)
    list(APPEND installed_headers include/clmla_model.h)
endif()
install(TARGETS ${installed} EXPORT clmlaTargets
    RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR}
    LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
    ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(FILES ${installed_headers} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
# Program and libraries find each other wherever the prefix is moved to.
set_target_properties(${installed} PROPERTIES INSTALL_RPATH "$ORIGIN")
if(CLMLA_BUILD_CLI)
    file(RELATIVE_PATH bin_to_lib ${CMAKE_INSTALL_FULL_BINDIR} ${CMAKE_INSTALL_FULL_LIBDIR})
    set_target_properties(clmla-cli PROPERTIES INSTALL_RPATH "$ORIGIN/${bin_to_lib}")
    install(TARGETS clmla-cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
    install(FILES ${CMAKE_CURRENT_BINARY_DIR}/clmla.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
    install(FILES tools/completion/clmla.bash RENAME clmla
        DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions)
endif()
install(FILES LICENSE README.md DESTINATION ${CMAKE_INSTALL_DOCDIR})

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/clmla)
install(EXPORT clmlaTargets NAMESPACE clmla:: DESTINATION ${package_dir})
configure_package_config_file(tools/clmlaConfig.cmake.in clmlaConfig.cmake
    INSTALL_DESTINATION ${package_dir} NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(clmlaConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/clmlaConfig.cmake
    ${CMAKE_CURRENT_BINARY_DIR}/clmlaConfigVersion.cmake DESTINATION ${package_dir})

file(RELATIVE_PATH pc_prefix ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_PREFIX})
foreach(kind IN ITEMS lib include)
    string(TOUPPER CMAKE_INSTALL_${kind}DIR variable)
    if(IS_ABSOLUTE "${${variable}}")
        set(pc_${kind}dir "${${variable}}")
    else()
        set(pc_${kind}dir "\${prefix}/${${variable}}")
    endif()
endforeach()
# OpenCL through its own pkg-config file where there is one.
find_package(PkgConfig)
if(PKG_CONFIG_FOUND)
    pkg_check_modules(CLMLA_OPENCL_PC QUIET OpenCL)
endif()
if(CLMLA_OPENCL_PC_FOUND)
    set(pc_requires OpenCL)
else()
    set(pc_libs -lOpenCL)
    list(TRANSFORM OpenCL_INCLUDE_DIRS PREPEND -I OUTPUT_VARIABLE pc_cflags)
    list(JOIN pc_cflags " " pc_cflags)
endif()
foreach(name IN LISTS installed)
    configure_file(tools/${name}.pc.in ${name}.pc @ONLY)
    install(FILES ${CMAKE_CURRENT_BINARY_DIR}/${name}.pc
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
endforeach()
# For the test of what is installed.
string(TOLOWER "${CMAKE_BUILD_TYPE}" build_type)
get_target_property(soversion clmla SOVERSION)
configure_file(tests/api/installed.txt.in installed.txt @ONLY)
