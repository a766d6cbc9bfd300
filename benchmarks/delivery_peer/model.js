// pern's MessageStatus, as its catalogue and its document's other models have it.
import { DataTypes, Sequelize } from 'sequelize';

export const connect = (url, connections) =>
  new Sequelize(url, { logging: false, pool: { max: connections, min: connections } });

export const define = (sequelize) =>
  sequelize.define(
    'MessageStatus',
    {
      id: { type: DataTypes.UUID, defaultValue: DataTypes.UUIDV4, primaryKey: true },
      message_id: { type: DataTypes.UUID, allowNull: false },
      user_id: { type: DataTypes.UUID, allowNull: false },
      status: {
        type: DataTypes.ENUM('sent', 'delivered', 'read', 'failed', 'reacted'),
        allowNull: false,
        defaultValue: 'sent',
      },
      reaction: { type: DataTypes.STRING(10), allowNull: true },
      delivered_at: { type: DataTypes.DATE, allowNull: true },
      read_at: { type: DataTypes.DATE, allowNull: true },
    },
    {
      schema: 'pern',
      tableName: 'message_statuses',
      underscored: true,
      indexes: [{ unique: true, fields: ['message_id', 'user_id'] }],
    },
  );
