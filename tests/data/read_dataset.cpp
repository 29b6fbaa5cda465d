// read_dataset FOLDER: what data::Dataset makes of a folder, for test_h5py.py: fingerprint, then SHA-256 of all pixels,
// then the labels.

#include <cstdlib>
#include <exception>
#include <iostream>
#include <vector>

#include "data/dataset.hpp"
#include "data/sha256.hpp"

int main(int argc, char** argv) {
  if (argc != 2) return EXIT_FAILURE;
  try {
    const perrin::data::Dataset dataset(argv[1]);
    perrin::data::Sha256 hash;
    std::vector<std::uint8_t> pixels(dataset.shape().bytes());
    for (std::uint64_t i = 0; i < dataset.size(); ++i) {
      dataset.read(i, pixels);
      hash.update(std::as_bytes(std::span(pixels)));
    }
    std::cout << dataset.fingerprint() << "\n" << hash.hex() << "\n";
    for (std::uint64_t i = 0; i < dataset.size(); ++i)
      std::cout << dataset.label(i) << (i + 1 < dataset.size() ? " " : "\n");
    return EXIT_SUCCESS;
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return EXIT_FAILURE;
  }
}
