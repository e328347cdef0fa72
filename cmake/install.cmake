# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#
# What `cmake --install` puts where. Two components: Development (the library, for building against
# it) and Programs.
include(CMakePackageConfigHelpers)

set(LIBVHOST_CMAKE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/vhost)

# One family of names beside other libraries: libvhost and libvhost_kernel_abi.
set_target_properties(kernel_abi PROPERTIES OUTPUT_NAME vhost_kernel_abi)
if(BUILD_SHARED_LIBS)
  # No promise of a stable ABI before 1.0: each minor version has its own soname.
  set_target_properties(kernel_abi vhost PROPERTIES
    VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})
endif()

install(TARGETS kernel_abi vhost EXPORT vhost_targets COMPONENT Development
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(EXPORT vhost_targets NAMESPACE vhost:: FILE vhost-targets.cmake
  DESTINATION ${LIBVHOST_CMAKE_DIR} COMPONENT Development)

# Include paths stay what they are in this tree: "vhost/..." and "kernel-abi/...". Left out are
# headers that only the library's own sources include, and those of tests.
install(DIRECTORY ${PROJECT_SOURCE_DIR}/kernel-abi ${PROJECT_SOURCE_DIR}/vhost
  DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/libvhost COMPONENT Development
  FILES_MATCHING PATTERN "*.h"
  PATTERN "control/json*.h" EXCLUDE
  PATTERN "control/report_fields.h" EXCLUDE
  PATTERN "sample_report.h" EXCLUDE
  PATTERN "*_fixture.h" EXCLUDE)

configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/vhost-config.cmake.in
  ${PROJECT_BINARY_DIR}/vhost-config.cmake INSTALL_DESTINATION ${LIBVHOST_CMAKE_DIR})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/vhost-config-version.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/vhost-config.cmake
  ${PROJECT_BINARY_DIR}/vhost-config-version.cmake
  DESTINATION ${LIBVHOST_CMAKE_DIR} COMPONENT Development)

# A static library's users link what it needs themselves.
set(LIBVHOST_PC_PRIVATE_FIELD Requires)
if(BUILD_SHARED_LIBS)
  set(LIBVHOST_PC_PRIVATE_FIELD Requires.private)
endif()
configure_file(${CMAKE_CURRENT_LIST_DIR}/libvhost.pc.in ${PROJECT_BINARY_DIR}/libvhost.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/libvhost.pc
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT Development)
