# How a test is declared. Each binary writes its cases as GoogleTest XML into <build>/results, where tests/run.sh counts them.
set(PERRIN_RESULTS "${CMAKE_BINARY_DIR}/results")
file(MAKE_DIRECTORY "${PERRIN_RESULTS}")

# perrin_add_test(NAME name SOURCES ... LIBRARIES ... [TIMEOUT seconds]): one binary, one entry of ctest.
function(perrin_add_test)
  cmake_parse_arguments(ARG "" "NAME;TIMEOUT" "SOURCES;LIBRARIES" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  add_executable(${ARG_NAME} ${ARG_SOURCES})
  target_link_libraries(${ARG_NAME} PRIVATE ${ARG_LIBRARIES} perrin_warnings GTest::gmock GTest::gtest_main)
  perrin_reuse_trainer_pch(${ARG_NAME} ${ARG_LIBRARIES})
  add_test(NAME ${ARG_NAME} COMMAND ${ARG_NAME} --gtest_output=xml:${PERRIN_RESULTS}/${ARG_NAME}.xml)
  set_tests_properties(${ARG_NAME} PROPERTIES TIMEOUT ${ARG_TIMEOUT})
endfunction()

# perrin_add_mpi_test(NAME name RANKS 1 2 4 SOURCES ... LIBRARIES ... [TIMEOUT seconds] [NEEDS_GPUS]): one binary, one entry of ctest for
# each number of ranks, named name.npN, under a real mpirun with a deadline. tests/support/mpi_main.cpp is its main(). NEEDS_GPUS: skipped
# where there is not one NVIDIA GPU for each rank. LIBRARIES has perrin_comm or what takes its place.
function(perrin_add_mpi_test)
  cmake_parse_arguments(ARG "NEEDS_GPUS" "NAME;TIMEOUT" "SOURCES;LIBRARIES;RANKS" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  add_executable(${ARG_NAME} ${ARG_SOURCES} "${CMAKE_SOURCE_DIR}/tests/support/mpi_main.cpp")
  target_link_libraries(${ARG_NAME} PRIVATE ${ARG_LIBRARIES} perrin_warnings GTest::gmock GTest::gtest)
  perrin_reuse_trainer_pch(${ARG_NAME} ${ARG_LIBRARIES})
  # No leak detection: Open MPI's plugins leak and are unloaded before the report, which then cannot tell them from perrin.
  foreach(ranks IN LISTS ARG_RANKS)
    set(test ${ARG_NAME}.np${ranks})
    set(guard "")
    if(ARG_NEEDS_GPUS)
      set(guard "${CMAKE_SOURCE_DIR}/tests/support/with_gpus.sh" ${ranks})
    endif()
    add_test(NAME ${test}
      COMMAND ${guard} ${MPIEXEC_EXECUTABLE} -np ${ranks} --oversubscribe --bind-to none
              $<TARGET_FILE:${ARG_NAME}> --gtest_output=xml:${PERRIN_RESULTS}/${test}.xml)
    set_tests_properties(${test} PROPERTIES TIMEOUT ${ARG_TIMEOUT} PROCESSORS 2 SKIP_RETURN_CODE 77
      ENVIRONMENT "OMPI_ALLOW_RUN_AS_ROOT=1;OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1;OMP_WAIT_POLICY=passive;OMP_NUM_THREADS=1;ASAN_OPTIONS=detect_leaks=0")
  endforeach()
endfunction()

# Tests of the trainer share its precompiled header: LibTorch's headers take 10 s to parse, each time. The compiler takes it only if the
# macros are the same, so the tests are given those of spdlog.
function(perrin_reuse_trainer_pch target)
  if("perrin_trainer" IN_LIST ARGN)
    find_package(spdlog REQUIRED)
    target_link_libraries(${target} PRIVATE spdlog::spdlog)
    target_precompile_headers(${target} REUSE_FROM perrin_trainer)
  endif()
endfunction()
