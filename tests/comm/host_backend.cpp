// Local or over MPI, in host memory.
#include "tests/comm/backend.hpp"
#include "tests/support/world.hpp"

namespace perrin::comm::test {

std::unique_ptr<Communicator> make_communicator(const CommunicatorOptions& options) {
  return perrin::test::world().make_communicator(options);
}

std::shared_ptr<std::byte> allocate(std::size_t bytes) {
  return {new std::byte[bytes](), std::default_delete<std::byte[]>()};
}

bool aligns_elements() { return false; }

}  // namespace perrin::comm::test
