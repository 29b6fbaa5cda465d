# The headers alone of the CUDA runtime and of NCCL, for tests that link neither library: PERRIN_CUDA_HEADERS, empty where they are missing.
# Looked for in: NCCL_ROOT and the CUDA toolkit, the system's folders, the project's virtual environment, the environment that LibTorch
# lies in. The wheels are nvidia-cuda-runtime, nvidia-cuda-crt and nvidia-nccl-cu13.
file(GLOB nvidia_wheels "${CMAKE_SOURCE_DIR}/.venv/lib/python3*/site-packages/nvidia")
foreach(torch IN ITEMS "${PERRIN_LIBTORCH}" "$ENV{PERRIN_LIBTORCH}")
  if(torch)
    list(APPEND nvidia_wheels "${torch}/../nvidia")
  endif()
endforeach()
set(cuda_header_folders "${CUDAToolkit_INCLUDE_DIRS}")
set(nccl_header_folders "${NCCL_INCLUDE_DIR}")
foreach(nvidia IN LISTS nvidia_wheels)
  list(APPEND cuda_header_folders "${nvidia}/cu13/include")
  list(APPEND nccl_header_folders "${nvidia}/nccl/include")
endforeach()
find_path(PERRIN_CUDA_RUNTIME_HEADERS cuda_runtime.h HINTS ${cuda_header_folders} PATHS /usr/local/cuda/include)
find_path(PERRIN_NCCL_HEADERS nccl.h HINTS ${NCCL_ROOT} ENV NCCL_ROOT ${nccl_header_folders} PATHS /usr/local/cuda/include
  PATH_SUFFIXES include)
mark_as_advanced(PERRIN_CUDA_RUNTIME_HEADERS PERRIN_NCCL_HEADERS)

set(PERRIN_CUDA_HEADERS "")
if(PERRIN_CUDA_RUNTIME_HEADERS AND PERRIN_NCCL_HEADERS)
  set(PERRIN_CUDA_HEADERS "${PERRIN_CUDA_RUNTIME_HEADERS}" "${PERRIN_NCCL_HEADERS}")
  list(REMOVE_DUPLICATES PERRIN_CUDA_HEADERS)
endif()
