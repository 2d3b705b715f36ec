"""TensorFlow operations that a server must know about before it runs a graph."""

from tensorflow.core.framework import node_def_pb2

# Operations that end the whole process, instead of with an error, on some shapes of
# their inputs. Found by trying all operations with ranks that they do not expect, and
# with empty tensors; tests/serving/test_aborting_operations.py tries them again. Most
# abort in oneDNN (tensorflow/tensorflow#111453). `BatchMatMulV2` does so only where
# TensorFlow fuses it with what follows, as in attention; `CombinedNonMaxSuppression`
# only sometimes, as it reads sizes of scalars that are not there.
_ABORTING = """
AvgPool3DGrad AvgPoolGrad BatchMatMulV2 BlockLSTMV2 CombinedNonMaxSuppression
ConjugateTranspose Conv Conv2D Conv2DBackpropFilter Conv2DBackpropInput Conv3D
Conv3DBackpropFilterV2 Conv3DBackpropInput Conv3DBackpropInputV2 CropAndResizeGradBoxes
DepthwiseConv2dNative DepthwiseConv2dNativeBackpropFilter
DepthwiseConv2dNativeBackpropInput EncodePng FakeQuantWithMinMaxVarsPerChannel
FakeQuantWithMinMaxVarsPerChannelGradient LRNGrad LSTMBlockCell LSTMBlockCellGrad
MaxPool3D MaxPoolGrad QuantizedMatMulWithBias QuantizedMatMulWithBiasAndDequantize
QuantizedMatMulWithBiasAndRelu QuantizedMatMulWithBiasAndReluAndRequantize
QuantizedMatMulWithBiasAndRequantize RequantizePerChannel ScatterNd TensorScatterAdd
TensorScatterMax TensorScatterMin TensorScatterSub TensorScatterUpdate Unbatch
UniformQuantizedConvolution UniformQuantizedConvolutionHybrid XlaDynamicSlice XlaEinsum
XlaSvd
"""
ABORTING_OPERATIONS = frozenset(_ABORTING.split())
# What TensorFlow writes into a graph in place of the above when it optimizes it.
_OPTIMIZED_PREFIXES = ("_Fused", "_Mkl", "__Mkl", "_Quantized")

# Operations that read or write files or sockets, run Python, or run a graph that is
# given as data. tests/serving/test_graph_scan.py compares them with the operations
# that TensorFlow has.
_FILES = """
CSVDataset CSVDatasetV2 CacheDataset CacheDatasetV2 CalibrationStatisticsSaver
CloseSummaryWriter CreateSummaryDbWriter CreateSummaryFileWriter DTensorRestoreV2
DataServiceDataset DataServiceDatasetV2 DataServiceDatasetV3 DataServiceDatasetV4
DatasetFromGraph DatasetToTFRecord DebugIdentity DebugIdentityV2 DebugIdentityV3
DebugNanCount DebugNumericSummary DistributedSave DumpTensor EagerPyFunc
ExperimentalCSVDataset ExperimentalDatasetToTFRecord ExperimentalLMDBDataset
ExperimentalMatchingFilesDataset ExperimentalSqlDataset FileSystemSetConfiguration
FixedLengthRecordDataset FixedLengthRecordDatasetV2 FixedLengthRecordReader
FixedLengthRecordReaderV2 FlushSummaryWriter GenerateVocabRemapping ImmutableConst
ImportEvent InitializeTableFromTextFile InitializeTableFromTextFileV2 LMDBDataset
LMDBReader ListSnapshotChunksDataset LoadAndRemapMatrix LoadDataset MatchingFiles
MatchingFilesDataset MergeV2Checkpoints PyFunc PyFuncStateless ReadFile ReaderRead
ReaderReadUpTo ReaderReadUpToV2 ReaderReadV2 RecordInput RegisterDataset
RegisterDatasetV2 RemoteCall Restore RestoreSlice RestoreV2 RpcCall RpcCheckStatus
RpcClient RpcGetValue RpcServer RpcServerRegister RpcServerStart Save SaveDataset
SaveDatasetV2 SaveSlices SaveV2 Skipgram SnapshotChunkDataset SnapshotDataset
SnapshotDatasetReader SnapshotDatasetV2 SnapshotNestedDatasetReader SqlDataset
StatsAggregatorSetSummaryWriter SummaryWriter TFRecordDataset TFRecordDatasetV2
TFRecordReader TFRecordReaderV2 TextLineDataset TextLineReader TextLineReaderV2
WholeFileReader WholeFileReaderV2 WriteAudioSummary WriteFile WriteGraphSummary
WriteHistogramSummary WriteImageSummary WriteRawProtoSummary WriteScalarSummary
WriteSummary
"""
FILE_OPERATIONS = frozenset(_FILES.split())
# Operations that use files only if an attribute, which is empty by default, says so:
# the attribute, and how its value begins if it names no file.
FILE_ATTRIBUTES: dict[str, tuple[str, tuple[bytes, ...]]] = {
    "DecodeProtoV2": ("descriptor_source", (b"local://", b"bytes://")),
    "EncodeProto": ("descriptor_source", (b"local://", b"bytes://")),
    "FixedUnigramCandidateSampler": ("vocab_file", ()),
    "PrintV2": ("output_stream", (b"stdout", b"stderr", b"log(")),
}


def aborts_on_shapes(operation: str) -> bool:
    """Return whether an operation can end the process if a shape is not as expected."""
    return operation in ABORTING_OPERATIONS or operation.startswith(_OPTIMIZED_PREFIXES)


def uses_files(node: node_def_pb2.NodeDef) -> bool:
    """Return whether a node uses files or sockets, or runs Python."""
    if node.op in FILE_OPERATIONS:
        return True
    attribute, harmless = FILE_ATTRIBUTES.get(node.op, ("", ()))
    value = node.attr[attribute].s if attribute in node.attr else b""
    return bool(value) and not value.startswith(harmless)
