# LibTorch::LibTorch from a LibTorch folder or a torch wheel, without find_package(Torch): that one fails for a CUDA wheel on a machine
# without the toolkit, and makes CMake 3.25 believe that nvcc 13 knows no C++20.
# Looked for in: PERRIN_LIBTORCH (cache, then environment), the one line of .perrin-libtorch, the project's virtual environment.
set(libtorch_dir "${PERRIN_LIBTORCH}")
if(NOT libtorch_dir)
  set(libtorch_dir "$ENV{PERRIN_LIBTORCH}")
endif()
if(NOT libtorch_dir AND EXISTS "${CMAKE_SOURCE_DIR}/.perrin-libtorch")
  file(STRINGS "${CMAKE_SOURCE_DIR}/.perrin-libtorch" libtorch_dir LIMIT_COUNT 1)
endif()
if(NOT libtorch_dir)
  file(GLOB wheels "${CMAKE_SOURCE_DIR}/.venv/lib/python3*/site-packages/torch")
  if(wheels)
    list(GET wheels 0 libtorch_dir)
  endif()
endif()
if(NOT EXISTS "${libtorch_dir}/include/ATen/ATen.h" OR NOT EXISTS "${libtorch_dir}/lib/libtorch_cpu.so")
  message(FATAL_ERROR "No LibTorch in '${libtorch_dir}'. Run launch/setup.sh, or configure with -DPERRIN_LIBTORCH=DIR (the folder that holds include/ and lib/).")
endif()
get_filename_component(libtorch_dir "${libtorch_dir}" REALPATH)
message(STATUS "perrin: LibTorch ${libtorch_dir}")

add_library(LibTorch::LibTorch INTERFACE IMPORTED)
# -idirafter: the wheel ships fmt 12 headers; searched before the system's they break the distribution's spdlog (built on fmt 9).
target_compile_options(LibTorch::LibTorch INTERFACE
  "SHELL:-idirafter ${libtorch_dir}/include" "SHELL:-idirafter ${libtorch_dir}/include/torch/csrc/api/include")
target_link_libraries(LibTorch::LibTorch INTERFACE "${libtorch_dir}/lib/libtorch_cpu.so" "${libtorch_dir}/lib/libc10.so")
if(PERRIN_HAS_CUDA AND NOT EXISTS "${libtorch_dir}/lib/libtorch_cuda.so")
  set(obstacle "the LibTorch in '${libtorch_dir}' has no CUDA operators (libtorch_cuda.so)")
  if(PERRIN_CUDA STREQUAL "ON")
    message(FATAL_ERROR "PERRIN_CUDA=ON, but ${obstacle}. Give a CUDA LibTorch with -DPERRIN_LIBTORCH=DIR, or configure with --preset cpu.")
  endif()
  message(STATUS "perrin: CPU only: ${obstacle}")
  set(PERRIN_HAS_CUDA OFF)
endif()
if(PERRIN_HAS_CUDA)
  # --no-as-needed: nothing refers to libtorch_cuda by symbol; loading it registers the CUDA operators.
  target_link_libraries(LibTorch::LibTorch INTERFACE
    "-Wl,--no-as-needed,${libtorch_dir}/lib/libtorch_cuda.so,--as-needed" "${libtorch_dir}/lib/libc10_cuda.so" CUDA::cudart)
  # The wheel's libraries find their own NVIDIA libraries by run path; the linker needs no proof of it.
  target_link_options(LibTorch::LibTorch INTERFACE "-Wl,--allow-shlib-undefined")
endif()
set(PERRIN_LIBTORCH_LIBRARY_DIR "${libtorch_dir}/lib")
list(APPEND CMAKE_BUILD_RPATH "${PERRIN_LIBTORCH_LIBRARY_DIR}")
list(APPEND CMAKE_INSTALL_RPATH "${PERRIN_LIBTORCH_LIBRARY_DIR}")
set(CMAKE_INSTALL_RPATH_USE_LINK_PATH ON)  # an installed perrin finds MPI, CUDA and NCCL where they were linked
