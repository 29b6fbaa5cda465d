#include <memory>

#include "data/data_error.hpp"
#include "data/source/open_source.hpp"
#include "launch/commands/command.hpp"
#include "launch/commands/conversion.hpp"

namespace perrin::launch {
namespace {

ExitCode repack(const Conversion& conversion, Session& session) {
  const data::SourceKind kind = data::recognise_source(conversion.input);
  if (kind != data::SourceKind::hdf5 && kind != data::SourceKind::hdf5_files && kind != data::SourceKind::dataset)
    throw data::DataError(conversion.input, "holds no HDF5; `perrin prepare` takes images of other kinds");
  return convert(conversion, session);
}

}  // namespace

Command repack_command(CLI::App& program) {
  CLI::App* app = program.add_subcommand("repack", "Write other people's HDF5, or a dataset, as a new dataset");
  const auto conversion = std::make_shared<Conversion>();
  app->add_option("SOURCE", conversion->input,
                  "HDF5 file, chunked or compressed or not; folder or quoted pattern of several; or a dataset")
      ->required()
      ->type_name("PATH");
  app->add_option("DEST", conversion->options.output, "Folder of the new dataset; it appears when it is whole")
      ->required()
      ->type_name("DIR");
  add_array_options(*app, conversion->source);
  add_storage_options(*app, conversion->options);
  app->footer(
      "The work of `perrin prepare`, without changes to the pixels: under mpirun all ranks share it. What is packed "
      "in\n"
      "chunks is unpacked block by block, once for the digest and once for each shard.\n"
      "\n"
      "Example:\n"
      "  perrin repack imagenet-64.hdf5 datasets/imagenet-64 --shard-images 50000\n"
      "  perrin repack 'parts/train_*.h5' datasets/train --keep-order\n"
      "  perrin repack camelyonpatch_x.h5 datasets/pcam --labels camelyonpatch_y.h5\n");
  return {app, [conversion](Session& session) { return repack(*conversion, session); }};
}

}  // namespace perrin::launch
