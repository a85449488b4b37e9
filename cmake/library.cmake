# libsdcore, the shared library for C and C++ programs, and what find_package(sdcore) and pkg-config
# find. A build of the Python module makes it only when asked: `cmake --build build --target sdcore`,
# then `cmake --install build --component library`.
include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

set(for_python)
if(SDCORE_PYTHON)
  set(for_python EXCLUDE_FROM_ALL)
endif()

file(GLOB capi_sources CONFIGURE_DEPENDS csrc/capi/*.cpp)
add_library(sdcore SHARED ${for_python} ${capi_sources})
target_compile_features(sdcore INTERFACE c_std_11 cxx_std_17)
target_include_directories(sdcore INTERFACE $<BUILD_INTERFACE:${CMAKE_CURRENT_SOURCE_DIR}/csrc/include>
                                            $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
target_link_libraries(sdcore PRIVATE sdcore_core sdcore_options)
# Before 1.0 every minor version may change the ABI.
set_target_properties(sdcore PROPERTIES
  VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})
target_compile_definitions(sdcore PRIVATE SDCORE_BUILD)
if(CMAKE_SYSTEM_NAME STREQUAL "Linux")
  set(exports ${CMAKE_CURRENT_SOURCE_DIR}/csrc/capi/sdcore.map)
  target_link_options(sdcore PRIVATE LINKER:--version-script=${exports} LINKER:--no-undefined)
  set_target_properties(sdcore PROPERTIES LINK_DEPENDS ${exports})
endif()

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/sdcore)
configure_package_config_file(cmake/sdcoreConfig.cmake.in sdcoreConfig.cmake
                              INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(sdcoreConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(TARGETS sdcore EXPORT sdcoreTargets COMPONENT library ${for_python})
install(EXPORT sdcoreTargets NAMESPACE sdcore:: DESTINATION ${package_dir} COMPONENT library
        ${for_python})
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/sdcoreConfig.cmake
              ${CMAKE_CURRENT_BINARY_DIR}/sdcoreConfigVersion.cmake
        DESTINATION ${package_dir} COMPONENT library ${for_python})
# Found from where it lies, as the library may be installed under any prefix.
file(RELATIVE_PATH to_prefix /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
configure_file(cmake/sdcore.pc.in sdcore.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/sdcore.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig
        COMPONENT library ${for_python})
install(DIRECTORY csrc/include/sdcore DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT library
        ${for_python})
