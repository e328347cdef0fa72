# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#
# Fuzz targets (docs/testing.md). With clang and AddressSanitizer they are libFuzzer's, and their
# test explores for a bounded time from the committed corpus; with any other compiler the test runs
# the corpus alone.
if(CMAKE_CXX_COMPILER_ID MATCHES Clang AND LIBVHOST_SANITIZE MATCHES address)
  set(LIBVHOST_FUZZ_DEFAULT ON)
else()
  set(LIBVHOST_FUZZ_DEFAULT OFF)
endif()
option(LIBVHOST_FUZZ "Build fuzz targets with clang's -fsanitize=fuzzer" ${LIBVHOST_FUZZ_DEFAULT})
set(LIBVHOST_FUZZ_SECONDS 10 CACHE STRING "How long the test of a fuzz target explores")
if(LIBVHOST_FUZZ)
  target_compile_options(libvhost_build INTERFACE -fsanitize=fuzzer-no-link)
endif()

# libvhost_fuzz(NAME LIBS ...): NAME_fuzz.cc with LLVMFuzzerTestOneInput, and corpus/NAME beside it.
function(libvhost_fuzz name)
  cmake_parse_arguments(PARSE_ARGV 1 fuzz "" "" "LIBS")
  set(target ${name}_fuzz)
  set(corpus ${CMAKE_CURRENT_SOURCE_DIR}/fuzz/corpus/${name})
  add_executable(${target} fuzz/${name}_fuzz.cc)
  target_link_libraries(${target} PRIVATE ${fuzz_LIBS} libvhost_build)
  if(LIBVHOST_FUZZ)
    target_link_options(${target} PRIVATE -fsanitize=fuzzer)
    # What is found goes to the build folder, not into the committed corpus.
    set(found ${CMAKE_CURRENT_BINARY_DIR}/fuzz/${name})
    file(MAKE_DIRECTORY ${found})
    add_test(NAME fuzz.${name}
      COMMAND ${target} -max_total_time=${LIBVHOST_FUZZ_SECONDS} -timeout=10 -max_len=4096
        -print_final_stats=1 -artifact_prefix=${CMAKE_CURRENT_BINARY_DIR}/fuzz/ ${found} ${corpus})
  else()
    target_sources(${target} PRIVATE fuzz/replay_corpus.cc)
    add_test(NAME fuzz.${name} COMMAND ${target} ${corpus})
  endif()
  set_tests_properties(fuzz.${name} PROPERTIES TIMEOUT 120)
endfunction()
