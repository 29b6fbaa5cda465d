// Writes docs/configuration.md from the key table: configuration_docs runs it.
#include <cstdlib>
#include <fstream>
#include <iostream>

#include "launch/config/reference.hpp"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: write_configuration_reference FILE.md\n";
    return EXIT_FAILURE;
  }
  std::ofstream file(argv[1], std::ios::binary);
  file << perrin::launch::configuration_reference() << std::flush;
  if (!file) std::cerr << "error: cannot write " << argv[1] << "\n";
  return file ? EXIT_SUCCESS : EXIT_FAILURE;
}
