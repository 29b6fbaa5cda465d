#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <stdexcept>
#include <string>

#include "data/data_error.hpp"
#include "data/file.hpp"
#include "tests/trainer/temporary_folder.hpp"
#include "trainer/interchange/safetensors.hpp"
#include "trainer/interchange/safetensors_format.hpp"

namespace perrin::trainer {
namespace {

class SafetensorsTest : public testing::Test {
 protected:
  std::filesystem::path file() const { return folder.path() / "x.safetensors"; }

  // What reading a file with this header and body says.
  std::string refusal(const std::string& header, std::size_t body_bytes) const {
    std::string contents(8, '\0');
    for (std::size_t i = 0; i < 8; ++i) {
      contents[i] = static_cast<char>(header.size() >> (8 * i) & 0xFF);
    }
    return refusal_of_bytes(contents + header + std::string(body_bytes, 'x'));
  }

  std::string refusal_of_bytes(const std::string& contents) const {
    data::write_file_durably(file(), contents);
    try {
      SafetensorsFile::read(file());
    } catch (const data::DataError& error) {
      return error.what();
    }
    return "accepted";
  }

  const test::TemporaryFolder folder;
};

TEST_F(SafetensorsTest, TensorsOfEveryTypeComeBackAsTheyWere) {
  std::map<std::string, at::Tensor> tensors;
  for (const at::ScalarType type :
       {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16, at::kLong, at::kInt, at::kByte, at::kBool}) {
    tensors[c10::toString(type)] = at::arange(12).view({3, 4}).to(type);
  }
  tensors["scalar"] = at::full({}, 2.5f);
  tensors["empty"] = at::empty({0, 3});
  tensors["strided"] = at::arange(24).view({2, 3, 2, 2}).to(at::kFloat).contiguous(at::MemoryFormat::ChannelsLast);
  write_safetensors(file(), tensors, {{"step", "17"}});

  const auto read = read_safetensors(file());
  ASSERT_EQ(read.size(), tensors.size());
  for (const auto& [name, tensor] : tensors) {
    ASSERT_TRUE(read.contains(name)) << name;
    EXPECT_EQ(read.at(name).scalar_type(), tensor.scalar_type()) << name;
    EXPECT_TRUE(read.at(name).equal(tensor)) << name;
  }
  const SafetensorsFile whole = SafetensorsFile::read(file());
  EXPECT_THAT(whole.metadata(),
              testing::UnorderedElementsAre(testing::Pair("format", "pt"), testing::Pair("step", "17")));
}

TEST_F(SafetensorsTest, DataBeginAtAMultipleOfEightBytes) {
  for (const std::string name : {"a", "ab", "abc", "abcd"}) {
    std::filesystem::remove(file());
    write_safetensors(file(), {{name, at::zeros({3})}});
    const auto bytes = data::read_file(file());
    EXPECT_EQ((bytes.size() - 12) % 8, 0u);
  }
}

TEST_F(SafetensorsTest, NothingIsOverwritten) {
  write_safetensors(file(), {{"a", at::zeros({3})}});
  EXPECT_THROW(write_safetensors(file(), {{"b", at::zeros({4})}}), data::DataError);
  EXPECT_TRUE(read_safetensors(file()).contains("a"));
}

TEST_F(SafetensorsTest, RefusesTensorsThatDoNotMatchTheirBytes) {
  const std::vector<std::byte> bytes(8);
  const NamedTensorView wrong{"a", {ElementType::F32, {3}, bytes}}, right{"a", {ElementType::F32, {2}, bytes}};
  EXPECT_THROW(write_safetensors(file(), std::span(&wrong, 1)), std::invalid_argument);
  const std::vector<NamedTensorView> twice{right, right};
  EXPECT_THROW(write_safetensors(file(), twice), std::invalid_argument);
}

TEST_F(SafetensorsTest, ReadsAMinimalForeignFile) {
  EXPECT_EQ(refusal(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8), "accepted");
  EXPECT_EQ(refusal("{}", 0), "accepted");
}

TEST_F(SafetensorsTest, EachDamageOrTrickIsRefusedByName) {
  using testing::HasSubstr;
  EXPECT_THAT(refusal_of_bytes("abc"), HasSubstr("too short"));
  EXPECT_THAT(refusal_of_bytes(std::string("\xff\0\0\0\0\0\0\0{}", 10)), HasSubstr("truncated"));
  EXPECT_THAT(refusal_of_bytes(std::string(8, '\xff') + "{}"), HasSubstr("truncated"));
  EXPECT_THAT(refusal("[1]", 0), HasSubstr("begin with '{'"));
  EXPECT_THAT(refusal("{\"a\":", 0), HasSubstr("JSON"));
  EXPECT_THAT(refusal("{\"\xff\":1}", 0), HasSubstr("JSON"));
  EXPECT_THAT(
      refusal(
          R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
          4),
      HasSubstr("twice"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F32","dtype":"F64","shape":[1],"data_offsets":[0,4]}})", 4),
              HasSubstr("twice"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F32","shape":[[[[1]]]],"data_offsets":[0,4]}})", 4), HasSubstr("nested"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"Q4","shape":[1],"data_offsets":[0,4]}})", 4), HasSubstr("element type"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F32","shape":[1]}})", 4), HasSubstr("data_offsets"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4), HasSubstr("natural number"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}})", 4), HasSubstr("natural number"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4),
              HasSubstr("shape and type need"));
  // 2^31 x 2^31 x 4 bytes is 2^64, which wraps to nothing.
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F32","shape":[2147483648,2147483648],"data_offsets":[0,0]}})", 0),
              HasSubstr("shape and type need"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", 4),
              HasSubstr("shape and type need"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8), HasSubstr("was due"));
  EXPECT_THAT(
      refusal(
          R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
          12),
      HasSubstr("was due"));
  EXPECT_THAT(
      refusal(
          R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}})",
          12),
      HasSubstr("was due"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 4), HasSubstr("was due"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 5),
              HasSubstr("after its last tensor"));
  EXPECT_THAT(refusal(R"({"__metadata__":{"a":1}})", 0), HasSubstr("not text"));
  EXPECT_THAT(refusal(R"({"__metadata__":["a"]})", 0), HasSubstr("not text"));
}

}  // namespace
}  // namespace perrin::trainer
