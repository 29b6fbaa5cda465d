#pragma once

namespace perrin::data {

/// How the bytes of images come from a file. Both give the same bytes and the same errors.
enum class ReadMethod {
  mmap,  ///< copied from the mapped file: no system call where the page cache has it
  pread  ///< a system call for each run of images, for file systems that map slowly or not at all
};

/// Whether images are compared with their checksums.
enum class Verify {
  reads,  ///< each image, whenever it is read
  never   ///< for data that `perrin verify` has just seen
};

}  // namespace perrin::data
