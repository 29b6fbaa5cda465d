#include <exception>
#include <string>
#include <vector>

#include "launch/failure.hpp"
#include "launch/program.hpp"
#include "launch/session.hpp"

int main(int argc, char** argv) {
  perrin::launch::Session session;
  try {
    return static_cast<int>(perrin::launch::run_program(std::vector<std::string>(argv + 1, argv + argc), session));
  } catch (...) {
    return session.fail(perrin::launch::describe_failure(std::current_exception()));
  }
}
