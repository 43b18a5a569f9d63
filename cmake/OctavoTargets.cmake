# The three kinds of target in this project. Every folder's CMakeLists.txt is a call or two of these.
#
#   octavo_library(core/base SRCS a.cc b.cc DEPS absl::status fmt::fmt [COLD] [UNITY])
#     makes the static library octavo_core_base; DEPS may name rooms (core/base) or imported targets. COLD: nothing in it
#     is on a hot path, so a release compiles it with -O1, in half the time. UNITY: its sources are compiled several at
#     once, which reads their headers once, unless OCTAVO_UNITY is OFF (presets debug and fuzz: every file on its own).
#   octavo_program(octavo-worker SRCS main.cc DEPS ... [UNITY])   goes to <build>/bin and is installed; COLD
#   octavo_test(core/base/error_test SRCS error_test.cc DEPS core/base [LABELS cluster] [TIMEOUT 60])
#     a GoogleTest binary in <build>/tests, one CTest test; COLD.
#   octavo_cuda_library(kernels/cuda SRCS a.cu DEPS core/tensor/bare)   with OCTAVO_CUDA (preset cuda)
#   octavo_fuzz(safetensors SRCS safetensors_fuzz.cc DEPS core/checkpoint)
#     a libFuzzer binary <build>/tests/safetensors_fuzz; only with OCTAVO_FUZZ (preset fuzz).

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/bin")
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
include(GNUInstallDirs)
include(CTest)

find_program(OCTAVO_CCACHE ccache)
if(OCTAVO_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER "${OCTAVO_CCACHE}")
endif()

option(OCTAVO_WERROR "Treat warnings as errors" ON)
option(OCTAVO_UNITY "Compile sources of large rooms several at once" ON)
option(OCTAVO_CUDA "Kernels for NVIDIA GPUs, and what uses them" OFF)
option(OCTAVO_FUZZ "Only the rooms that read untrusted files, instrumented for libFuzzer" OFF)
set(OCTAVO_SANITIZE "" CACHE STRING "Sanitizers for every target, e.g. address,undefined")

# Debian's gRPC is not instrumented, and TSan believes nothing that passes through it: with that sanitizer the programs and
# the tests of these rooms are left out.
set(OCTAVO_GRPC_ROOMS "^(core/rpc|worker/service|coordinator/gateway|coordinator/service|cli)/")
set(OCTAVO_WITHOUT_GRPC OFF)
if(OCTAVO_SANITIZE STREQUAL "thread")
  set(OCTAVO_WITHOUT_GRPC ON)
endif()

function(_octavo_target_name out room)
  if(room MATCHES "^[a-z_]+(/[a-z_0-9]+)+$" OR room MATCHES "^(proto|kernels|cli)$" OR room STREQUAL "proto_grpc")
    string(REPLACE "/" "_" name "${room}")
    set(${out} "octavo_${name}" PARENT_SCOPE)
  else()
    set(${out} "${room}" PARENT_SCOPE)
  endif()
endfunction()

function(_octavo_common target)
  target_include_directories(${target} PUBLIC "${PROJECT_SOURCE_DIR}")
  target_compile_options(${target} PRIVATE -Wall -Wextra -Wnon-virtual-dtor -ffp-contract=off
                         $<$<CXX_COMPILER_ID:GNU>:-Wshadow=local>
                         $<$<CXX_COMPILER_ID:Clang>:-Wthread-safety>)
  if(OCTAVO_WERROR)
    target_compile_options(${target} PRIVATE -Werror)
  endif()
  if(OCTAVO_FUZZ)
    target_compile_options(${target} PRIVATE -fsanitize=fuzzer-no-link)
  endif()
  if(OCTAVO_SANITIZE)
    target_compile_options(${target} PRIVATE -fsanitize=${OCTAVO_SANITIZE} -fno-omit-frame-pointer
                           -fno-sanitize-recover=all
                           # g++ does not follow instrumented code, std::regex's for one.
                           $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
    target_link_options(${target} PRIVATE -fsanitize=${OCTAVO_SANITIZE})
  endif()
endfunction()

function(_octavo_cold target)
  target_compile_options(${target} PRIVATE $<$<CONFIG:Release>:-O1>)
endfunction()

function(_octavo_unity target)
  if(OCTAVO_UNITY)
    set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 8)
    # Every source is an included file then, and g++ warns of types in anonymous namespaces there.
    target_compile_options(${target} PRIVATE $<$<CXX_COMPILER_ID:GNU>:-Wno-subobject-linkage>)
  endif()
endfunction()

function(_octavo_link target)
  foreach(dep IN LISTS ARGN)
    _octavo_target_name(name "${dep}")
    target_link_libraries(${target} PUBLIC ${name})
  endforeach()
endfunction()

function(octavo_library room)
  cmake_parse_arguments(ARG "COLD;UNITY" "" "SRCS;DEPS" ${ARGN})
  _octavo_target_name(target "${room}")
  if(ARG_SRCS)
    add_library(${target} STATIC EXCLUDE_FROM_ALL ${ARG_SRCS})
    _octavo_common(${target})
    _octavo_link(${target} ${ARG_DEPS})
    if(ARG_COLD)
      _octavo_cold(${target})
    endif()
    if(ARG_UNITY)
      _octavo_unity(${target})
    endif()
  else()
    add_library(${target} INTERFACE)
    target_include_directories(${target} INTERFACE "${PROJECT_SOURCE_DIR}")
    foreach(dep IN LISTS ARG_DEPS)
      _octavo_target_name(name "${dep}")
      target_link_libraries(${target} INTERFACE ${name})
    endforeach()
  endif()
endfunction()

function(octavo_program name)
  cmake_parse_arguments(ARG "UNITY" "" "SRCS;DEPS" ${ARGN})
  if(OCTAVO_WITHOUT_GRPC)
    return()
  endif()
  add_executable(${name} ${ARG_SRCS})
  _octavo_common(${name})
  _octavo_cold(${name})
  if(ARG_UNITY)
    _octavo_unity(${name})
  endif()
  _octavo_link(${name} ${ARG_DEPS})
  install(TARGETS ${name} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endfunction()

function(octavo_test name)
  if(NOT BUILD_TESTING OR (OCTAVO_WITHOUT_GRPC AND name MATCHES "${OCTAVO_GRPC_ROOMS}"))
    return()
  endif()
  cmake_parse_arguments(ARG "" "TIMEOUT" "SRCS;DEPS;LABELS" ${ARGN})
  string(REPLACE "/" "_" target "${name}")
  add_executable(${target} ${ARG_SRCS})
  set_target_properties(${target} PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/tests")
  _octavo_common(${target})
  _octavo_cold(${target})
  _octavo_link(${target} ${ARG_DEPS} GTest::gmock GTest::gtest_main)
  target_compile_definitions(${target} PRIVATE
    OCTAVO_SOURCE_DIR="${PROJECT_SOURCE_DIR}" OCTAVO_BIN_DIR="${CMAKE_BINARY_DIR}/bin")
  add_test(NAME ${name} COMMAND ${target})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  if(OCTAVO_SANITIZE)
    math(EXPR ARG_TIMEOUT "${ARG_TIMEOUT} * 10")
  endif()
  set_tests_properties(${name} PROPERTIES TIMEOUT ${ARG_TIMEOUT})
  if(ARG_LABELS)
    set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABELS}")
  endif()
endfunction()

function(octavo_fuzz name)
  cmake_parse_arguments(ARG "" "" "SRCS;DEPS" ${ARGN})
  add_executable(${name}_fuzz ${ARG_SRCS})
  set_target_properties(${name}_fuzz PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/tests")
  _octavo_common(${name}_fuzz)
  _octavo_link(${name}_fuzz ${ARG_DEPS})
  target_link_options(${name}_fuzz PRIVATE -fsanitize=fuzzer)
endfunction()

# Arithmetic as on the CPU: subnormals are zeros, quotients and roots are rounded correctly, nothing is contracted. Code for
# sm_90a, and PTX of compute_80 for whatever else there is.
function(octavo_cuda_library room)
  cmake_parse_arguments(ARG "" "" "SRCS;DEPS" ${ARGN})
  _octavo_target_name(target "${room}")
  add_library(${target} STATIC EXCLUDE_FROM_ALL ${ARG_SRCS})
  target_include_directories(${target} PUBLIC "${PROJECT_SOURCE_DIR}")
  set(options -ftz=true -prec-div=true -prec-sqrt=true -fmad=false --expt-relaxed-constexpr -diag-suppress=1046
    -Werror=all-warnings --generate-code=arch=compute_90a,code=sm_90a --generate-code=arch=compute_80,code=compute_80
    -Xcompiler=-Wall,-Wextra,-ffp-contract=off)
  target_compile_options(${target} PRIVATE "$<$<COMPILE_LANGUAGE:CUDA>:${options}>"
    "$<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Werror;-ffp-contract=off>")
  _octavo_link(${target} ${ARG_DEPS})
endfunction()
