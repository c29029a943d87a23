# A Siamese SegFormer with MiT-b1, what Open-CD calls ChangeFormer (arXiv:2201.01293).
_base_ = './changeformer_mitb0.py'

model = dict(
    pretrained='https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/segformer/'
    'mit_b1_20220624-02e5a6a1.pth',
    backbone=dict(embed_dims=64),
    decode_head=dict(in_channels=[128, 256, 640, 1024]),
)
