#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <stdexcept>
#include <string>

#include "data/data_error.hpp"
#include "data/file.hpp"
#include "tests/trainer/temporary_folder.hpp"
#include "trainer/interchange/npz.hpp"

// That numpy reads such a file is shown by tests/system/test_bound.py.
namespace perrin::trainer {
namespace {

/// The .npy of the only array of a file: from its magic to the end of its data.
std::string npy_of(const at::Tensor& array) {
  const test::TemporaryFolder folder;
  write_npz(folder.path() / "a.npz", {{"name", array}});
  const std::string file = data::read_text_file(folder.path() / "a.npz");
  const std::size_t magic = file.find("\x93NUMPY");
  EXPECT_THAT(file.substr(0, magic), testing::EndsWith("name.npy"));
  return file.substr(magic, 128 + array.nbytes());
}

TEST(Npz, HoldsTheBytesThatNumpySaveWrites) {
  // The headers as numpy 2.4 writes them with numpy.save.
  const std::vector<std::pair<at::Tensor, std::string>> cases = {
      {at::linspace(-1, 1, 6, at::kDouble).view({2, 3}), "{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3), }"},
      {at::arange(24, at::kFloat).view({2, 3, 4}), "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3, 4), }"},
      {at::arange(5), "{'descr': '<i8', 'fortran_order': False, 'shape': (5,), }"},
      {at::full({}, 7, at::kByte), "{'descr': '|u1', 'fortran_order': False, 'shape': (), }"},
      {at::zeros({0, 3}), "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 3), }"},
      {at::arange(6, at::kDouble).view({2, 3}).t(), "{'descr': '<f8', 'fortran_order': False, 'shape': (3, 2), }"}};
  for (const auto& [array, header] : cases) {
    const at::Tensor rows = array.contiguous();
    const std::string magic = std::string("\x93NUMPY\x01\x00\x76\x00", 10);  // version 1.0, a header of 118 bytes
    EXPECT_EQ(npy_of(array), magic + header + std::string(117 - header.size(), ' ') + "\n" +
                                 std::string(static_cast<const char*>(rows.const_data_ptr()), rows.nbytes()))
        << header;
  }
}

TEST(Npz, OfTheSameArraysIsTheSameFileAndReplacesAnOlderOne) {
  const test::TemporaryFolder folder;
  const auto path = folder.path() / "a.npz";
  write_npz(path, {{"old", at::zeros({100})}});
  write_npz(path, {{"x", at::arange(5)}, {"y", at::ones({2})}});
  const std::string first = data::read_text_file(path);
  write_npz(path, {{"y", at::ones({2})}, {"x", at::arange(10).slice(0, 0, 5)}});
  EXPECT_EQ(data::read_text_file(path), first);
}

TEST(Npz, RefusesWhatItDoesNotWriteAndSaysWhatItCannot) {
  const test::TemporaryFolder folder;
  EXPECT_THROW(write_npz(folder.path() / "a.npz", {}), std::invalid_argument);
  EXPECT_THROW(write_npz(folder.path() / "a.npz", {{"", at::zeros({1})}}), std::invalid_argument);
  EXPECT_THROW(write_npz(folder.path() / "a.npz", {{"half", at::zeros({1}, at::kHalf)}}), std::invalid_argument);
  EXPECT_FALSE(std::filesystem::exists(folder.path() / "a.npz"));
  EXPECT_THROW(write_npz(folder.path() / "missing" / "a.npz", {{"x", at::zeros({1})}}), data::DataError);
}

}  // namespace
}  // namespace perrin::trainer
